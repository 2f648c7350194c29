#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/onnx_graph.h"
#include "formats/onnx_model.h"
#include "model/onnx_open.h"
#include "model/onnx_weights.h"
#include "model/source.h"

namespace nibble {

// Where a tensor of a source lies in the graph.
struct OnnxPlace {
  const OnnxWeight* weight = nullptr;              // of matrices
  const onnx::TensorProto* initializer = nullptr;  // of vectors
  size_t first = 0;                                // its first row or element there
};

// Throws Error(kUnsupported) for a node that multiplies integers, or that dequantizes something else than one of
// `weights`: nibble's decoder runs neither.
void expect_float_products(const onnx::GraphProto& graph, const std::vector<OnnxWeight>& weights);

// A .onnx file seen as tensors. Two views: of any graph, and of decoders that we know (onnx_decoder.h).
class OnnxSource : public Source {
 public:
  const OnnxModel& model() const { return *model_; }
  const OnnxGraphIndex& index() const { return *index_; }
  const std::vector<OnnxWeight>& weights() const { return weights_; }  // of the whole graph
  const OnnxPlace& place(std::string_view tensor) const { return places_.find(tensor)->second; }
  // True: tensors are the graph's weights under their nodes' names, there is no config().
  bool any_graph() const { return config_.is_null(); }

  // Files beside the model that belong to it: genai_config.json, tokenizers, templates, licences.
  std::vector<std::string> side_files() const override;
  std::string side_file(std::string_view name) const override;
  std::string kind() const override { return "onnx"; }

 protected:
  explicit OnnxSource(const std::filesystem::path& file);
  void add(std::unique_ptr<StoredTensor> tensor, const OnnxPlace& place);

  std::shared_ptr<const OnnxModel> model_;
  std::unique_ptr<OnnxGraphIndex> index_;
  std::vector<OnnxWeight> weights_;

 private:
  std::map<std::string, OnnxPlace, std::less<>> places_;
};

}  // namespace nibble
