#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "formats/onnx_model.h"

namespace nibble {

// For tests: computes small graphs of MatMul and what quantizes it, in double, straight from the definitions of the
// operators. Matrices are [rows, cols], vectors and scalars have one row. Only what the exporters write.
class OnnxEvaluator {
 public:
  struct Value {
    size_t rows = 1, cols = 1;
    std::vector<double> v;
    double at(size_t r, size_t c) const {  // broadcast
      return v[(rows == 1 ? 0 : r) * cols + (cols == 1 ? 0 : c)];
    }
  };

  explicit OnnxEvaluator(const OnnxModel& model) : model_(model) {
    for (const onnx::TensorProto& initializer : model.graph().initializer()) read(initializer);
  }

  Value& operator[](const std::string& name) { return values_[name]; }

  void run() {
    for (const onnx::NodeProto& node : model_.graph().node()) compute(node);
  }

 private:
  void read(const onnx::TensorProto& initializer) {
    const OnnxTensor tensor = model_.tensor(initializer);
    Value value;
    if (!tensor.shape.empty()) value.cols = tensor.shape.back();
    value.rows = element_count(tensor.shape) / value.cols;
    const auto number = [&]<class T>(T) {
      for (size_t i = 0; i < tensor.bytes.size(); i += sizeof(T)) {
        T element;
        std::memcpy(&element, tensor.bytes.data() + i, sizeof(T));
        value.v.push_back(static_cast<double>(element));
      }
    };
    if (tensor.type == onnx_type::kFloat) number(float{});
    if (tensor.type == onnx_type::kInt8) number(int8_t{});
    if (tensor.type == onnx_type::kUint8) number(uint8_t{});
    values_[initializer.name()] = value;
  }

  template <class F>
  static Value each(size_t rows, size_t cols, const F& f) {
    Value out{rows, cols, {}};
    for (size_t r = 0; r < rows; ++r)
      for (size_t c = 0; c < cols; ++c) out.v.push_back(f(r, c));
    return out;
  }

  template <class F>
  static Value pairs(const Value& a, const Value& b, const F& f) {
    return each(std::max(a.rows, b.rows), std::max(a.cols, b.cols),
                [&](size_t r, size_t c) { return f(a.at(r, c), b.at(r, c)); });
  }

  static Value product(const Value& a, const Value& b) {
    return each(a.rows, b.cols, [&](size_t r, size_t c) {
      double sum = 0;
      for (size_t k = 0; k < a.cols; ++k) sum += a.at(r, k) * b.at(k, c);
      return sum;
    });
  }

  static Value minus(const Value& a, const Value* b) {
    return b ? pairs(a, *b, [](double x, double y) { return x - y; }) : a;
  }
  static Value times(const Value& a, const Value& b) {
    return pairs(a, b, [](double x, double y) { return x * y; });
  }
  static Value quantized(const Value& x, double scale, double zero) {
    return each(x.rows, x.cols,
                [&](size_t r, size_t c) { return std::clamp(std::nearbyint(x.at(r, c) / scale) + zero, 0.0, 255.0); });
  }

  void compute(const onnx::NodeProto& node) {
    const std::string& op = node.op_type();
    const auto in = [&](int i) -> const Value& { return values_.at(node.input(i)); };
    const auto maybe = [&](int i) { return i < node.input_size() && !node.input(i).empty() ? &in(i) : nullptr; };
    Value& out = values_[node.output(0)];
    if (op == "MatMul") {
      out = product(in(0), in(1));
    } else if (op == "Add") {
      out = pairs(in(0), in(1), [](double x, double y) { return x + y; });
    } else if (op == "Mul") {
      out = times(in(0), in(1));
    } else if (op == "Div") {
      out = pairs(in(0), in(1), [](double x, double y) { return x / y; });
    } else if (op == "Max") {
      out = pairs(in(0), in(1), [](double x, double y) { return std::max(x, y); });
    } else if (op == "Abs") {
      out = each(in(0).rows, in(0).cols, [&](size_t r, size_t c) { return std::abs(in(0).at(r, c)); });
    } else if (op == "Round") {
      out = each(in(0).rows, in(0).cols, [&](size_t r, size_t c) { return std::nearbyint(in(0).at(r, c)); });
    } else if (op == "ReduceMax") {  // of each row
      out = each(in(0).rows, 1, [&](size_t r, size_t) {
        const double* row = &in(0).v[r * in(0).cols];
        return *std::max_element(row, row + in(0).cols);
      });
    } else if (op == "Cast") {
      out = in(0);
    } else if (op == "DynamicQuantizeLinear") {
      const auto [low, high] = std::minmax_element(in(0).v.begin(), in(0).v.end());
      const double from = std::min(0.0, *low), to = std::max(0.0, *high), scale = (to - from) / 255;
      const double zero = std::clamp(std::nearbyint(-from / scale), 0.0, 255.0);
      out = quantized(in(0), scale, zero);
      values_[node.output(1)] = {1, 1, {scale}};
      values_[node.output(2)] = {1, 1, {zero}};
    } else if (op == "QuantizeLinear") {
      out = quantized(in(0), in(1).v[0], in(2).v[0]);
    } else if (op == "DequantizeLinear") {
      // One scale, or one for each column (axis 1 of a matrix).
      if (in(1).v.size() > 1 && int_attribute(node, "axis", 1) != 1) throw Error(ErrorKind::kUsage, "axis");
      out = times(minus(in(0), maybe(2)), in(1));
    } else if (op == "MatMulInteger") {
      out = product(minus(in(0), maybe(2)), minus(in(1), maybe(3)));
    } else if (op == "MatMulIntegerToFloat") {
      out = times(product(minus(in(0), maybe(4)), minus(in(1), maybe(5))), times(in(2), in(3)));
    } else {
      throw Error(ErrorKind::kUsage, "the test knows no " + op);
    }
  }

  const OnnxModel& model_;
  std::map<std::string, Value> values_;
};

}  // namespace nibble
