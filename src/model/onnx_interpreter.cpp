#include "model/onnx_interpreter.h"

#include <algorithm>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/threads.h"
#include "kernels/kernels.h"
#include "model/onnx_operators.h"
#include "model/onnx_tensors.h"

namespace nibble {

OnnxInterpreter::OnnxInterpreter(std::shared_ptr<const OnnxModel> model, const OnnxGraphIndex& index,
                                 const std::vector<OnnxWeight>& weights)
    : model_(std::move(model)), index_(index) {
  for (const OnnxWeight& weight : weights)
    for (const int node : weight.nodes) uses_.emplace(node, &weight);
}

void OnnxInterpreter::feed(const std::string& input, OnnxArray value) { values_[input] = std::move(value); }

void OnnxInterpreter::run() {
  for (const int i : index_.order()) {
    const onnx::NodeProto& node = model_->graph().node(i);
    check_interrupted();
    with_context([&] { return cat("node ", onnx_node_name(node)); }, [&] { compute(node, i); });
    for (const std::string& output : node.output()) unread_[output] = index_.readers(output).size();
    for (const std::string_view input : values_read(node)) {
      const std::string name(input);
      const auto left = unread_.emplace(name, index_.readers(name).size()).first;
      if (left->second > 0 && --left->second == 0 && !kept_.contains(name)) values_.erase(name);
    }
  }
}

const OnnxArray* OnnxInterpreter::value(const std::string& name) {
  if (const auto found = values_.find(name); found != values_.end()) return &found->second;
  const onnx::TensorProto* constant = index_.initializer(name);
  return constant ? &values_.emplace(name, read_onnx_array(*model_, *constant)).first->second : nullptr;
}

void OnnxInterpreter::compute(const onnx::NodeProto& node, int i) {
  if (node.output_size() != 1)
    throw Error(ErrorKind::kUnsupported, cat("is a ", node.op_type(), " with ", node.output_size(), " outputs"));
  OnnxArray result;
  if (values_read(node).size() > static_cast<size_t>(node.input_size()))
    throw Error(ErrorKind::kUnsupported, cat("is a ", node.op_type(), " with a graph inside"));
  const auto use = uses_.find(i);
  if (use != uses_.end()) {
    result = use->second->is_table() ? lookup(node, *use->second) : product(node, *use->second);
  } else {
    const auto find = [&](int input) -> const OnnxArray* {
      return input < node.input_size() && !node.input(input).empty() ? value(node.input(input)) : nullptr;
    };
    if (makes_weight(node)) return;  // the products and look-ups behind it read it
    result = compute_onnx({node, *model_, find});
  }
  values_[node.output(0)] = std::move(result);
}

// Does it transpose or dequantize a constant matrix for products and look-ups alone?
bool OnnxInterpreter::makes_weight(const onnx::NodeProto& node) const {
  if ((node.op_type() != "Transpose" && node.op_type() != "DequantizeLinear") || node.input_size() == 0) return false;
  const onnx::NodeProto* maker = index_.producer(node.input(0));
  if (!index_.is_constant(node.input(0)) && !(maker && maker->op_type() == "DequantizeLinear")) return false;
  const std::vector<int>& readers = index_.readers(node.output(0));
  return !readers.empty() && !kept_.contains(node.output(0)) &&
         std::all_of(readers.begin(), readers.end(), [&](int reader) {
           const onnx::NodeProto& next = model_->graph().node(reader);
           return uses_.contains(reader) || (node.op_type() == "DequantizeLinear" && next.op_type() == "Transpose");
         });
}

// x W^T, and a bias where the operator adds one.
OnnxArray OnnxInterpreter::product(const onnx::NodeProto& node, const OnnxWeight& weight) {
  if (!weight.obstacle.empty() && !weight.is_packed()) throw Error(ErrorKind::kUnsupported, weight.obstacle);
  const OnnxArray* input = value(node.input(0));
  if (!input || input->shape.empty() || input->shape.back() != weight.cols)
    throw Error(ErrorKind::kCorrupt, cat("reads vectors that have not ", weight.cols, " elements"));
  const std::vector<float> x(input->v.begin(), input->v.end());
  const size_t tokens = weight.cols == 0 ? 0 : x.size() / weight.cols;
  OnnxArray out{input->shape, std::vector<double>(tokens * weight.rows), false};
  out.shape.back() = weight.rows;
  const auto stored = onnx_rows(model_, weight, weight.name, 0, weight.rows);
  const kernels::Table& kernel = kernels::active();
  parallel_for(weight.rows, std::max<size_t>(slice_rows(weight.cols), 64), [&](size_t begin, size_t end) {
    std::vector<float> rows((end - begin) * weight.cols);
    stored->read_rows(begin, end, rows.data());
    for (size_t r = begin; r < end; ++r)
      for (size_t t = 0; t < tokens; ++t)
        out.v[t * weight.rows + r] = static_cast<double>(
            kernel.dot_f32(rows.data() + (r - begin) * weight.cols, x.data() + t * weight.cols, weight.cols));
  });
  stored->release(0, weight.rows);
  const int bias_input = node.op_type() == "Gemm" ? 2 : node.op_type() == "MatMulNBits" ? 5 : -1;
  if (bias_input < 0 || bias_input >= node.input_size() || node.input(bias_input).empty()) return out;
  const OnnxArray* bias = value(node.input(bias_input));
  if (!bias) throw Error(ErrorKind::kCorrupt, "has a bias that nothing makes");
  return each_pair(out, *bias, false, [](double a, double b) { return a + b; });
}

OnnxArray OnnxInterpreter::lookup(const onnx::NodeProto& node, const OnnxWeight& weight) {
  const OnnxArray* ids = value(node.input(1));
  if (!ids) throw Error(ErrorKind::kCorrupt, "has indices that nothing makes");
  OnnxArray out{ids->shape, {}, false};
  out.shape.push_back(weight.cols);
  const auto stored = onnx_rows(model_, weight, weight.name, 0, weight.rows);
  std::vector<float> row(weight.cols);
  for (const int64_t id : integers_of(*ids)) {
    if (id < 0 || static_cast<size_t>(id) >= weight.rows)
      throw Error(ErrorKind::kCorrupt, cat("index ", id, " of ", weight.rows));
    const auto at = static_cast<size_t>(id);
    stored->read_rows(at, at + 1, row.data());
    out.v.insert(out.v.end(), row.begin(), row.end());
  }
  return out;
}

}  // namespace nibble
