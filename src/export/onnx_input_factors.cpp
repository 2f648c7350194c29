#include "export/onnx_input_factors.h"

#include <algorithm>

#include "export/float_bytes.h"
#include "model/source_floats.h"

namespace nibble {
namespace {

// Inputs of a norm that its output is linear in: the weight, and the bias where there is one.
std::vector<int> norm_inputs(const onnx::NodeProto& node) {
  const std::string& op = node.op_type();
  std::vector<int> inputs;
  constexpr int64_t kLastAxis = -1;
  if (op == "LayerNormalization" && int_attribute(node, "axis", kLastAxis) == kLastAxis) inputs = {1, 2};
  if (op == "SimplifiedLayerNormalization" || op == "RMSNormalization") inputs = {1};
  if (op == "SkipLayerNormalization") inputs = {2, 3};
  if (op == "SkipSimplifiedLayerNormalization") inputs = {2};
  std::erase_if(inputs, [&](int i) { return i >= node.input_size() || node.input(i).empty(); });
  return inputs;
}

onnx::TensorProto vector_of(const std::string& name, int type, const std::vector<float>& values) {
  onnx::TensorProto tensor;
  tensor.set_name(name);
  tensor.set_data_type(type);
  tensor.add_dims(static_cast<int64_t>(values.size()));
  const std::vector<std::byte> bytes = float_bytes(values, *onnx_dtype(type));
  tensor.set_raw_data(bytes.data(), bytes.size());
  return tensor;
}

}  // namespace

OnnxInputFactors::OnnxInputFactors(const OnnxModel& model, const OnnxGraphIndex& index,
                                   std::map<int, const std::vector<float>*> nodes)
    : model_(model), index_(index), nodes_(std::move(nodes)) {
  const onnx::GraphProto& graph = model.graph();
  for (int i = 0; i < graph.node_size(); ++i)
    for (const std::string& output : graph.node(i).output()) makers_.emplace(output, i);
  std::map<std::string, std::vector<const std::vector<float>*>> kinds;  // different factors of a value
  for (const auto& node : nodes_) {
    const int i = node.first;
    const std::vector<float>* const factors = node.second;
    const std::string& value = graph.node(i).input(0);
    const std::vector<int>& readers = index.readers(value);
    const bool alone =
        !index.is_output(value) && !index.read_in_subgraph(value) &&
        std::all_of(readers.begin(), readers.end(), [&](int reader) {
          const auto other = nodes_.find(reader);
          return other != nodes_.end() && *other->second == *factors && graph.node(reader).input(0) == value;
        });
    std::vector<Constant> constants;
    if (folded_.contains(value)) continue;
    if (alone && find_constants(value, factors->size(), constants)) {
      folded_.emplace(value, std::move(constants));
      continue;
    }
    auto& own = kinds[value];
    auto kind = std::find_if(own.begin(), own.end(), [&](const auto* other) { return *other == *factors; });
    if (kind == own.end()) kind = own.insert(own.end(), factors);
    const auto number = kind - own.begin();
    names_[i] = onnx_new(value + "_scaled" + (number == 0 ? "" : std::to_string(number + 1)));
  }
}

bool OnnxInputFactors::is_vector(const std::string& value, size_t cols) const {
  if (!index_.is_constant(value)) return false;
  const onnx::TensorProto& tensor = *index_.initializer(value);
  const auto dtype = onnx_dtype(tensor.data_type());
  if (!dtype || !is_float(*dtype) || *dtype == DType::kF64 || tensor.dims_size() == 0) return false;
  const auto width = static_cast<int64_t>(cols);
  return tensor.dims(tensor.dims_size() - 1) == width &&
         std::all_of(tensor.dims().begin(), tensor.dims().end() - 1, [](int64_t extent) { return extent == 1; });
}

bool OnnxInputFactors::find_constants(const std::string& value, size_t cols, std::vector<Constant>& found) const {
  const auto made = makers_.find(value);
  if (made == makers_.end()) return false;
  const onnx::NodeProto& node = model_.graph().node(made->second);
  if (node.output(0) != value) return false;
  if (const std::vector<int> inputs = norm_inputs(node); !inputs.empty()) {
    for (const int input : inputs) {
      if (!is_vector(node.input(input), cols)) return false;
      found.push_back({made->second, input});
    }
    return true;
  }
  if (node.op_type() != "Mul" && node.op_type() != "Add") return false;
  const int constant = is_vector(node.input(1), cols) ? 1 : 0;
  if (!is_vector(node.input(constant), cols)) return false;
  found.push_back({made->second, constant});
  if (node.op_type() == "Mul") return true;
  // Both terms of a sum take the factors.
  const std::string& other = node.input(1 - constant);
  return index_.readers(other).size() == 1 && !index_.is_output(other) && !index_.read_in_subgraph(other) &&
         find_constants(other, cols, found);
}

void OnnxInputFactors::fold(OnnxSplice& splice, std::set<std::string>& maybe_unused) const {
  std::map<int, OnnxReplacement> changed;
  for (const auto& [value, constants] : folded_) {
    const std::vector<float>& factors = *nodes_.find(index_.readers(value).front())->second;
    for (const auto& [i, input] : constants) {
      OnnxReplacement& replacement = changed[i];
      if (replacement.nodes.empty()) replacement.nodes.push_back(model_.graph().node(i));
      onnx::NodeProto& node = replacement.nodes.front();
      const std::string name = node.input(input);
      const onnx::TensorProto& initializer = *index_.initializer(name);
      const OnnxTensor tensor = model_.tensor(initializer);
      std::vector<float> values(factors.size());
      floats_from_bytes(*onnx_dtype(tensor.type), tensor.bytes.data(), values.size(), values.data(), name);
      for (size_t c = 0; c < values.size(); ++c) values[c] *= factors[c];
      const bool own = index_.readers(name).size() == 1;
      const std::string scaled = onnx_new((own ? name : node.output(0) + "_" + name) + "_scaled");
      replacement.constants.push_back(vector_of(scaled, tensor.type, values));
      *replacement.constants.back().mutable_dims() = initializer.dims();
      node.set_input(input, scaled);
      maybe_unused.insert(name);
    }
  }
  for (auto& [i, replacement] : changed) splice.replace(i, std::move(replacement));
}

OnnxReplacement OnnxInputFactors::before(int i, onnx::NodeProto& node, int type) const {
  OnnxReplacement out;
  const auto scaled = names_.find(i);
  if (scaled == names_.end()) return out;
  const std::string factors = onnx_new(scaled->second + "_factors");
  onnx::NodeProto mul;
  mul.set_op_type("Mul");
  mul.set_name(scaled->second);
  mul.add_input(node.input(0));
  mul.add_input(factors);
  mul.add_output(scaled->second);
  out.nodes.push_back(std::move(mul));
  out.constants.push_back(vector_of(factors, type, *nodes_.find(i)->second));
  node.set_input(0, scaled->second);
  return out;
}

}  // namespace nibble
