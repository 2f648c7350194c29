// Products of 8-bit integers: what `onnx` and `onnx-qdq` make of weights with quantized inputs. With one scale for each
// output (W = s_n (c - z_n)) and one for all inputs (x = s_x (q - z_x)) a product of integers needs one factor for each
// output alone.
//
//   dynamic, onnx   |x| / 127 of each token by ReduceMax, Div, Round, Cast; MatMulInteger, Cast, Mul. Codes are stored
//                   with 128 added: ONNX Runtime multiplies unsigned inputs several times faster than signed ones.
//   the same with one range for all tokens
//                   DynamicQuantizeLinear, MatMulInteger, Cast, Mul, which ONNX Runtime fuses
//   static, onnx    QuantizeLinear, MatMulIntegerToFloat of com.microsoft. QLinearMatMul would round the outputs too,
//                   which are no other integer operator's inputs here.
//   static, qdq     QuantizeLinear, DequantizeLinear, MatMul of a dequantized weight, which ONNX Runtime makes
//                   MatMulIntegerToFloat
//
// Specifications: ONNX's DynamicQuantizeLinear-11, MatMulInteger-10, QuantizeLinear-13 and DequantizeLinear-13;
// ContribOperators.md of ONNX Runtime.
#include <algorithm>

#include "export/onnx_form.h"

namespace nibble {
namespace {

onnx::NodeProto make_node(const std::string& type, std::initializer_list<std::string> inputs,
                          std::initializer_list<std::string> outputs) {
  onnx::NodeProto node;
  node.set_op_type(type);
  node.set_name(*outputs.begin());
  for (const std::string& input : inputs) node.add_input(input);
  for (const std::string& output : outputs) node.add_output(output);
  return node;
}

onnx::NodeProto make_cast(const std::string& input, const std::string& output, int type) {
  onnx::NodeProto node = make_node("Cast", {input}, {output});
  set_onnx_int(node, "to", static_cast<size_t>(type));
  return node;
}

template <class T>
onnx::TensorProto scalar(const std::string& name, int type, T value) {
  onnx::TensorProto tensor;
  tensor.set_name(name);
  tensor.set_data_type(type);
  tensor.set_raw_data(reinterpret_cast<const char*>(&value), sizeof value);
  return tensor;
}

class IntegerForm final : public OnnxForm {
 public:
  IntegerForm(const OnnxQuantized& quantized, bool qdq)
      : rows_(quantized.weight.rows),
        cols_(quantized.weight.cols),
        symmetric_(quantized.spec.symmetric),
        per_tensor_(quantized.spec.per_tensor),
        float_type_(onnx_type_of(quantized.spec.scale_dtype)),
        activations_(quantized.activations),
        tensor_ranges_(quantized.tensor_ranges),
        opset_(quantized.opset),
        qdq_(qdq) {
    const int type = symmetric_ ? onnx_type::kInt8 : onnx_type::kUint8;
    parts_.push_back({"_quantized", type, {cols_, rows_}, rows_ * cols_});
    parts_.push_back({"_scale", onnx_type::kFloat, {rows_}, rows_ * sizeof(float)});
    // Readers of DequantizeLinear want to see zero points even where they are all 0.
    if (!symmetric_ || qdq_) parts_.push_back({"_zero_point", type, {rows_}, rows_});
  }

  std::vector<std::pair<std::string, int64_t>> needs_opsets() const override {
    if (activations_.mode == ActivationSpec::Mode::kDynamicPerToken) return {{"", 11}};
    if (qdq_) return {{"", 13}};
    return {{"", 10}, {"com.microsoft", 1}};
  }

  // The graph wants [inputs, outputs]: strips of a column each.
  void write(size_t first_row, const QuantizedMatrix& q, const Sink& sink) override {
    const uint8_t flip = symmetric_ ? 0x80 : 0;  // code - 128, signed
    constexpr size_t kTile = 64;
    std::vector<uint8_t> strip(q.rows * std::min(kTile, q.cols));
    for (size_t c = 0; c < q.cols; c += kTile) {
      const size_t width = std::min(kTile, q.cols - c);
      for (size_t r = 0; r < q.rows; ++r)
        for (size_t i = 0; i < width; ++i)
          strip[i * q.rows + r] = static_cast<uint8_t>(q.codes[r * q.cols + c + i] ^ flip);
      for (size_t i = 0; i < width; ++i)
        sink(0, (c + i) * rows_ + first_row, std::as_bytes(std::span(strip).subspan(i * q.rows, q.rows)));
    }
    std::vector<float> scales(q.rows);
    std::vector<uint8_t> zeros(q.rows);
    for (size_t r = 0; r < q.rows; ++r) {
      scales[r] = q.scales[per_tensor_ ? 0 : r];
      zeros[r] = symmetric_ ? 0 : q.zeros[per_tensor_ ? 0 : r];
    }
    sink(1, first_row * sizeof(float), std::as_bytes(std::span(scales)));
    if (parts_.size() > 2) sink(2, first_row, std::as_bytes(std::span(zeros)));
  }

  OnnxReplacement replace(const onnx::NodeProto& node, std::span<const std::string> names) const override {
    OnnxReplacement out;
    const std::string& result = node.output(0);
    const std::string bias = onnx_bias(node);
    std::string input = node.input(0);
    const bool narrow = float_type_ != onnx_type::kFloat;
    if (narrow) {
      out.nodes.push_back(make_cast(input, onnx_new(input + "_float"), onnx_type::kFloat));
      input = onnx_new(input + "_float");
    }
    Input x(input, node.input(0));
    const bool dynamic = activations_.mode == ActivationSpec::Mode::kDynamicPerToken;
    if (dynamic && !tensor_ranges_) {
      x.zero = onnx_new("token_zero_point");
      add_token_ranges(out, x);
    } else if (dynamic) {
      out.nodes.push_back(make_node("DynamicQuantizeLinear", {input}, {x.quantized, x.scale, x.zero}));
    } else {
      out.constants.push_back(scalar(x.scale, onnx_type::kFloat, activations_.scale));
      const int zero = activations_.symmetric ? 1 << (activations_.bits - 1) : activations_.zero;
      out.constants.push_back(scalar(x.zero, onnx_type::kUint8, static_cast<uint8_t>(zero)));
      out.nodes.push_back(make_node("QuantizeLinear", {input, x.scale, x.zero}, {x.quantized}));
    }
    // The product is float32; then the graph's type, then the bias.
    const std::string before_bias = bias.empty() ? result : onnx_new(result + "_product");
    const std::string product = narrow ? onnx_new(result + "_float") : before_bias;
    if (dynamic)
      add_integer_product(out, x, result, names, product);
    else if (qdq_)
      add_float_product(out, x, names, product);
    else
      add_fused_product(out, x, names, product);
    if (narrow) out.nodes.push_back(make_cast(product, before_bias, float_type_));
    if (!bias.empty()) out.nodes.push_back(make_node("Add", {before_bias, bias}, {result}));
    out.nodes.back().set_name(onnx_node_name(node));
    return out;
  }

 private:
  // Names of what becomes of an input.
  struct Input {
    Input(std::string value_name, const std::string& base)
        : value(std::move(value_name)),
          quantized(onnx_new(base + "_quantized")),
          scale(onnx_new(base + "_scale")),
          zero(onnx_new(base + "_zero_point")),
          dequantized(onnx_new(base + "_dequantized")),
          base_(base) {}
    std::string step(const char* name) const { return onnx_new(base_ + name); }
    std::string value, quantized, scale, zero, dequantized;

   private:
    std::string base_;
  };

  // Symmetric codes plus 128, and the scale of each token, [..., 1].
  void add_token_ranges(OnnxReplacement& out, const Input& x) const {
    const std::string axes = onnx_new("token_axes"), least = onnx_new("token_least"), step = onnx_new("token_step"),
                      middle = onnx_new("token_middle");
    out.nodes.push_back(make_node("Abs", {x.value}, {x.step("_abs")}));
    out.nodes.push_back(make_node("ReduceMax", {x.step("_abs")}, {x.step("_max")}));
    set_onnx_int(out.nodes.back(), "keepdims", 1);
    constexpr int64_t kInputSince = 18;  // ReduceMax's axes were an attribute before
    if (opset_ >= kInputSince) {
      out.constants.push_back(scalar(axes, onnx_type::kInt64, int64_t{-1}));
      out.constants.back().add_dims(1);
      out.nodes.back().add_input(axes);
    } else {
      onnx::AttributeProto& attribute = *out.nodes.back().add_attribute();
      attribute.set_name("axes");
      attribute.set_type(7);
      attribute.add_ints(-1);
    }
    // A token of zeros must not be divided by 0.
    out.constants.push_back(scalar(least, onnx_type::kFloat, 1e-30f));
    out.constants.push_back(scalar(step, onnx_type::kFloat, 1.0f / 127));
    out.constants.push_back(scalar(middle, onnx_type::kFloat, 128.0f));
    out.constants.push_back(scalar(x.zero, onnx_type::kUint8, uint8_t{128}));
    out.nodes.push_back(make_node("Max", {x.step("_max"), least}, {x.step("_range")}));
    out.nodes.push_back(make_node("Mul", {x.step("_range"), step}, {x.scale}));
    out.nodes.push_back(make_node("Div", {x.value, x.scale}, {x.step("_steps")}));
    out.nodes.push_back(make_node("Round", {x.step("_steps")}, {x.step("_rounded")}));
    out.nodes.push_back(make_node("Add", {x.step("_rounded"), middle}, {x.step("_codes")}));
    out.nodes.push_back(make_cast(x.step("_codes"), x.quantized, onnx_type::kUint8));
  }

  void add_integer_product(OnnxReplacement& out, const Input& x, const std::string& result,
                           std::span<const std::string> names, const std::string& product) const {
    const std::string sums = onnx_new(result + "_int32"), floats = onnx_new(result + "_sums"),
                      scales = onnx_new(result + "_scales");
    out.nodes.push_back(make_node("MatMulInteger", {x.quantized, names[0], x.zero}, {sums}));
    if (!symmetric_) out.nodes.back().add_input(names[2]);
    out.nodes.push_back(make_cast(sums, floats, onnx_type::kFloat));
    if (tensor_ranges_) {
      out.nodes.push_back(make_node("Mul", {x.scale, names[1]}, {scales}));
      out.nodes.push_back(make_node("Mul", {floats, scales}, {product}));
    } else {
      out.nodes.push_back(make_node("Mul", {floats, x.scale}, {scales}));
      out.nodes.push_back(make_node("Mul", {scales, names[1]}, {product}));
    }
  }

  void add_fused_product(OnnxReplacement& out, const Input& x, std::span<const std::string> names,
                         const std::string& product) const {
    out.nodes.push_back(
        make_node("MatMulIntegerToFloat", {x.quantized, names[0], x.scale, names[1], x.zero}, {product}));
    out.nodes.back().set_domain("com.microsoft");
    if (!symmetric_) out.nodes.back().add_input(names[2]);
  }

  static void add_float_product(OnnxReplacement& out, const Input& x, std::span<const std::string> names,
                                const std::string& product) {
    const std::string weight = onnx_new(names[0] + "_dequantized");
    out.nodes.push_back(make_node("DequantizeLinear", {x.quantized, x.scale, x.zero}, {x.dequantized}));
    out.nodes.push_back(make_node("DequantizeLinear", {names[0], names[1], names[2]}, {weight}));
    set_onnx_int(out.nodes.back(), "axis", 1);
    out.nodes.push_back(make_node("MatMul", {x.dequantized, weight}, {product}));
  }

  size_t rows_, cols_;
  bool symmetric_, per_tensor_;
  int float_type_;  // of the graph
  ActivationSpec activations_;
  bool tensor_ranges_;
  int64_t opset_;
  bool qdq_;
};

}  // namespace

std::unique_ptr<OnnxForm> onnx_integer_form(const OnnxQuantized& quantized, bool qdq) {
  return std::make_unique<IntegerForm>(quantized, qdq);
}

size_t onnx_integer_bytes(const QuantSpec& spec, size_t rows, size_t cols, bool qdq) {
  return rows * cols + rows * sizeof(float) + (spec.symmetric && !qdq ? 0 : rows);
}

}  // namespace nibble
