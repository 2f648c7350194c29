#include "model/onnx_step_runner.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/interrupt.h"
#include "core/mapped_file.h"

namespace nibble {
namespace {

// Operators may look into small constants when a graph is loaded (axes, shapes); larger ones are weights, which are
// given with each run: they are not copied then.
constexpr size_t kInGraph = 4096;

void declare(onnx::ValueInfoProto& input, const std::string& name, int type) {
  input.set_name(name);
  input.mutable_type()->mutable_tensor_type()->set_elem_type(type);
}

}  // namespace

OnnxValueStore::~OnnxValueStore() {
  std::error_code ignored;
  for (const auto& [key, entry] : entries_)
    if (!entry.file.empty()) std::filesystem::remove(entry.file, ignored);
}

void OnnxValueStore::put(size_t sample, const std::string& value, const OnnxTensor& tensor) {
  Entry entry{{tensor.type, tensor.shape, {}, nullptr, false}, {}};
  if (used_ + tensor.bytes.size() <= memory_) {
    const auto copy = std::make_shared<std::vector<std::byte>>(tensor.bytes.begin(), tensor.bytes.end());
    entry.tensor.bytes = *copy;
    entry.tensor.owner = copy;
    used_ += copy->size();
  } else {
    entry.file = folder_ / cat("value-", files_++);
    OutputFile file(entry.file);  // it is not synced: nobody reads it after a crash
    file.write_at(0, tensor.bytes);
  }
  drop(sample, value);
  entries_.emplace(std::pair(sample, value), std::move(entry));
}

std::optional<OnnxTensor> OnnxValueStore::get(size_t sample, const std::string& value) const {
  const auto found = entries_.find(std::pair(sample, value));
  if (found == entries_.end()) return std::nullopt;
  OnnxTensor tensor = found->second.tensor;
  if (found->second.file.empty()) return tensor;
  const auto file = MappedFile::open(found->second.file);
  tensor.bytes = file->bytes();
  tensor.owner = file;
  return tensor;
}

void OnnxValueStore::drop(size_t sample, const std::string& value) {
  const auto found = entries_.find(std::pair(sample, value));
  if (found == entries_.end()) return;
  used_ -= found->second.tensor.bytes.size();
  std::error_code ignored;
  if (!found->second.file.empty()) std::filesystem::remove(found->second.file, ignored);
  entries_.erase(found);
}

OnnxStepRunner::OnnxStepRunner(const OnnxModel& model, std::vector<OnnxStep> steps,
                               std::shared_ptr<const OnnxRuntime> runtime, const std::vector<OnnxFeed>& feeds,
                               std::filesystem::path folder, size_t memory)
    : model_(model),
      steps_(std::move(steps)),
      runtime_(std::move(runtime)),
      feeds_(feeds),
      values_(std::move(folder), memory) {}

OnnxTensor OnnxStepRunner::input(size_t sample, const std::string& name) const {
  if (const auto value = values_.get(sample, name)) return *value;
  const auto found = feeds_[sample].find(name);
  if (found == feeds_[sample].end())
    throw Error(ErrorKind::kUsage, cat("the calibration data has no value for the graph's input ", name));
  return found->second;
}

std::string OnnxStepRunner::serialize(const OnnxStep& step, const Replace& replace,
                                      std::vector<std::pair<std::string, OnnxTensor>>& fed) const {
  constexpr int64_t kIrVersion = 8;  // before it, all initializers had to be inputs, and functions were unknown
  onnx::ModelProto part;
  part.set_ir_version(std::max(kIrVersion, model_.proto().ir_version()));
  *part.mutable_opset_import() = model_.proto().opset_import();
  *part.mutable_functions() = model_.proto().functions();
  for (onnx::FunctionProto& function : *part.mutable_functions())
    for (onnx::NodeProto& node : *function.mutable_node()) inline_contents(node, model_);
  onnx::GraphProto& graph = *part.mutable_graph();
  graph.set_name("step");
  for (const int i : step.nodes) {
    onnx::NodeProto& node = *graph.add_node();
    node = model_.graph().node(i);
    inline_contents(node, model_);
  }
  for (const std::string& name : step.inputs) declare(*graph.add_input(), name, input(0, name).type);
  for (const auto& [name, tensor] : step.constants) {
    std::optional<OnnxTensor> contents = replace ? replace(*tensor) : std::nullopt;
    if (!contents && tensor->data_type() != onnx_type::kString) {
      OnnxTensor own = model_.tensor(*tensor);
      if (own.bytes.size() > kInGraph) contents = std::move(own);
    }
    if (contents) {
      declare(*graph.add_input(), name, tensor->data_type());
      fed.emplace_back(name, aligned(std::move(*contents)));
    } else {
      onnx::TensorProto& initializer = *graph.add_initializer();
      initializer = *tensor;
      initializer.set_name(name);
      inline_contents(initializer, model_);
    }
  }
  for (const std::string& name : step.outputs) graph.add_output()->set_name(name);
  return part.SerializeAsString();
}

void OnnxStepRunner::run(size_t step_index, const Replace& replace, const Observe& observe, bool again) {
  const OnnxStep& step = steps_[step_index];
  std::vector<std::pair<std::string, OnnxTensor>> fed;
  std::unique_ptr<OnnxSession> session;
  const std::set<std::string_view> wanted(step.wanted.begin(), step.wanted.end()),
      last(step.last.begin(), step.last.end());
  const auto where = [&] {
    return cat("step ", step_index + 1, " of ", steps_.size(),
               step.nodes.empty() ? "" : cat(", from node ", onnx_node_name(model_.graph().node(step.nodes.front()))));
  };
  for (size_t sample = 0; sample < feeds_.size(); ++sample) {
    check_interrupted();
    if (step_index == 0 && observe)
      for (const std::string& name : step.wanted)
        if (std::find(step.outputs.begin(), step.outputs.end(), name) == step.outputs.end())
          observe(sample, name, input(sample, name));
    if (step.outputs.empty()) continue;
    with_context(where, [&] {
      if (!session) session = runtime_->load(serialize(step, replace, fed));
    });
    with_context([&] { return cat(where(), ", sample ", sample + 1); },
                 [&] {
                   std::vector<std::pair<std::string, OnnxTensor>> inputs = fed;
                   for (const std::string& name : step.inputs) inputs.emplace_back(name, input(sample, name));
                   const std::vector<OnnxTensor> made = session->run(inputs, step.outputs);
                   inputs.clear();
                   for (const std::string& name : step.inputs)
                     if (last.contains(name)) values_.drop(sample, name);
                   for (size_t i = 0; i < made.size(); ++i) {
                     if (observe && wanted.contains(step.outputs[i])) observe(sample, step.outputs[i], made[i]);
                     if (!last.contains(step.outputs[i]) || (again && wanted.contains(step.outputs[i])))
                       values_.put(sample, step.outputs[i], made[i]);
                   }
                 });
  }
  for (const auto& [name, tensor] : fed)
    if (tensor.mapped) release_pages(tensor.bytes);
}

void OnnxStepRunner::observe_again(size_t step_index, const Observe& observe) {
  const OnnxStep& step = steps_[step_index];
  const std::set<std::string_view> made(step.outputs.begin(), step.outputs.end()),
      last(step.last.begin(), step.last.end());
  for (size_t sample = 0; sample < feeds_.size(); ++sample) {
    check_interrupted();
    for (const std::string& name : step.wanted) {
      observe(sample, name, input(sample, name));
      if (made.contains(name) && last.contains(name)) values_.drop(sample, name);
    }
  }
}

}  // namespace nibble
