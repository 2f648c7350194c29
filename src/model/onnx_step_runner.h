#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/onnx_graph.h"
#include "formats/onnx_model.h"
#include "model/onnx_runtime.h"
#include "model/onnx_steps.h"

namespace nibble {

// The inputs of a graph for one run, by name.
using OnnxFeed = std::map<std::string, OnnxTensor, std::less<>>;

// Values of several samples that wait for their readers: in memory up to a limit, beyond it each in a file of its own.
class OnnxValueStore {
 public:
  // `folder` exists; its files "value-..." are the store's. Throws Error(kIo) as all its functions do.
  OnnxValueStore(std::filesystem::path folder, size_t memory) : folder_(std::move(folder)), memory_(memory) {}
  ~OnnxValueStore();
  OnnxValueStore(const OnnxValueStore&) = delete;
  OnnxValueStore& operator=(const OnnxValueStore&) = delete;

  // Copies the tensor.
  void put(size_t sample, const std::string& value, const OnnxTensor& tensor);
  // Nothing when it is not there.
  std::optional<OnnxTensor> get(size_t sample, const std::string& value) const;
  void drop(size_t sample, const std::string& value);
  size_t memory_used() const { return used_; }

 private:
  struct Entry {
    OnnxTensor tensor;           // without bytes when they are in the file
    std::filesystem::path file;  // empty: in memory
  };
  std::filesystem::path folder_;
  size_t memory_, used_ = 0, files_ = 0;
  std::map<std::pair<size_t, std::string>, Entry> entries_;
};

// Runs a graph step by step in ONNX Runtime, all samples through one step before the next, so that one step's weights
// are in memory at a time and what is known of a step's inputs can change the weights of the step.
class OnnxStepRunner {
 public:
  // Other contents for a constant of the step at hand, of its type and shape; nothing: as in the graph.
  using Replace = std::function<std::optional<OnnxTensor>(const onnx::TensorProto& tensor)>;
  // A wanted value as one sample gives it; the tensor is valid until the call returns.
  using Observe = std::function<void(size_t sample, const std::string& value, const OnnxTensor& tensor)>;

  // `steps` of cut_onnx(). `folder` exists: values beyond `memory` bytes go to files there.
  OnnxStepRunner(const OnnxModel& model, std::vector<OnnxStep> steps, std::shared_ptr<const OnnxRuntime> runtime,
                 const std::vector<OnnxFeed>& feeds, std::filesystem::path folder, size_t memory);

  const std::vector<OnnxStep>& steps() const { return steps_; }
  // Steps are run in their order, each once. Throws what ONNX Runtime says, with the sample and the step's first node;
  // Error(kUsage) for a feed that lacks an input; Error(kInterrupted).
  // `again`: observe_again() follows.
  void run(size_t step_index, const Replace& replace, const Observe& observe, bool again = false);
  // The step's wanted values once more, before the next step runs.
  void observe_again(size_t step_index, const Observe& observe);

 private:
  OnnxTensor input(size_t sample, const std::string& name) const;
  // The step as a model; constants that are not in it come as inputs, from `fed`.
  std::string serialize(const OnnxStep& step, const Replace& replace,
                        std::vector<std::pair<std::string, OnnxTensor>>& fed) const;

  const OnnxModel& model_;
  std::vector<OnnxStep> steps_;
  std::shared_ptr<const OnnxRuntime> runtime_;
  const std::vector<OnnxFeed>& feeds_;
  OnnxValueStore values_;
};

}  // namespace nibble
