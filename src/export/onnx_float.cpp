// Quantized weights as the floats that they stand for.
#include "export/float_bytes.h"
#include "export/onnx_form.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

class FloatForm final : public OnnxForm {
 public:
  FloatForm(const OnnxWeight& weight, const QuantSpec& spec)
      : weight_(weight), dtype_(spec.scale_dtype), element_(byte_size(spec.scale_dtype, 1)) {
    // All nodes of a weight read it the same way but for Gemm's transB, which replace() sets.
    transposed_ = onnx_reads_transposed(weight);
    const Shape shape = transposed_ ? Shape{weight.cols, weight.rows} : Shape{weight.rows, weight.cols};
    parts_.push_back(
        {cat("_fake", spec.bits), onnx_type_of(dtype_), shape, byte_size(dtype_, weight.rows * weight.cols)});
  }

  void write(size_t first_row, const QuantizedMatrix& q, const Sink& sink) override {
    std::vector<float> values(q.rows * q.cols);
    dequantize(q, matrix(values.data(), q.rows, q.cols));
    if (!transposed_) return sink(0, first_row * q.cols * element_, float_bytes(values, dtype_));
    std::vector<float> columns(values.size());
    kernels::active().transpose(values.data(), q.cols, q.rows, q.cols, columns.data(), q.rows);
    const std::vector<std::byte> bytes = float_bytes(columns, dtype_);
    const size_t strip = q.rows * element_;
    for (size_t c = 0; c < q.cols; ++c)
      sink(0, (c * weight_.rows + first_row) * element_, std::span(bytes).subspan(c * strip, strip));
  }

  OnnxReplacement replace(const onnx::NodeProto& node, std::span<const std::string> names) const override {
    return {onnx_with_floats(node, names[0], transposed_), {}};
  }

 private:
  const OnnxWeight& weight_;
  DType dtype_;
  size_t element_;
  bool transposed_;
};

void set_transposed(onnx::NodeProto& gemm, bool transposed) {
  for (onnx::AttributeProto& attribute : *gemm.mutable_attribute())
    if (attribute.name() == "transB") return attribute.set_i(transposed ? 1 : 0);
  set_onnx_int(gemm, "transB", transposed ? 1 : 0);
}

}  // namespace

std::vector<onnx::NodeProto> onnx_with_floats(const onnx::NodeProto& node, const std::string& value, bool transposed) {
  const std::string& op = node.op_type();
  if (op == "MatMul" && !transposed)
    throw Error(ErrorKind::kUnsupported, cat("node ", onnx_node_name(node), " shares its weight with a Gemm"));
  if (op == "MatMul" || op == "Gemm" || op == "Gather") {
    onnx::NodeProto changed = node;
    changed.set_input(op == "Gather" ? 0 : 1, value);
    if (op == "Gemm") set_transposed(changed, !transposed);
    return {changed};
  }
  onnx::NodeProto plain;
  plain.set_name(onnx_node_name(node));
  if (op == "GatherBlockQuantized") {
    plain.set_op_type("Gather");
    for (const std::string* input : {&value, &node.input(1)}) plain.add_input(*input);
    plain.add_output(node.output(0));
    return {plain};
  }
  plain.set_op_type("MatMul");
  for (const std::string* input : {&node.input(0), &value}) plain.add_input(*input);
  std::vector<onnx::NodeProto> nodes;
  add_onnx_bias(std::move(plain), node, nodes);
  return nodes;
}

std::unique_ptr<OnnxForm> onnx_float_form(const OnnxWeight& weight, const QuantSpec& spec) {
  return std::make_unique<FloatForm>(weight, spec);
}

}  // namespace nibble
