#include "model/onnx_operators.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "model/onnx_attention.h"

namespace nibble {
namespace {

[[noreturn]] void corrupt(std::string text) { throw Error(ErrorKind::kCorrupt, std::move(text)); }

Shape shape_of(const std::vector<int64_t>& extents) {
  Shape shape;
  for (const int64_t extent : extents) {
    if (extent < 0) corrupt(cat("an extent of ", extent));
    shape.push_back(static_cast<size_t>(extent));
  }
  return shape;
}

// Axes are an input since some opset, an attribute before.
std::vector<int64_t> axes_of(const OnnxCall& call) {
  if (const OnnxArray* axes = call.find(1)) return integers_of(*axes);
  const onnx::AttributeProto* attribute = find_attribute(call.node, "axes");
  return attribute ? std::vector<int64_t>(attribute->ints().begin(), attribute->ints().end()) : std::vector<int64_t>{};
}

int64_t axis_of(const OnnxCall& call, int64_t absent) { return int_attribute(call.node, "axis", absent); }

OnnxArray constant(const OnnxCall& call) {
  if (const auto* value = find_attribute(call.node, "value"); value && value->has_t())
    return read_onnx_array(call.model, value->t());
  if (const auto* value = find_attribute(call.node, "value_float"))
    return {{}, {static_cast<double>(value->f())}, false};
  if (const auto* value = find_attribute(call.node, "value_int")) return {{}, {static_cast<double>(value->i())}, true};
  if (const auto* value = find_attribute(call.node, "value_ints"))
    return onnx_integers({value->ints().begin(), value->ints().end()});
  throw Error(ErrorKind::kUnsupported, "a constant that is no number");
}

OnnxArray constant_of_shape(const OnnxCall& call) {
  OnnxArray one{{}, {0.0}, false};
  if (const auto* value = find_attribute(call.node, "value"); value && value->has_t())
    one = read_onnx_array(call.model, value->t());
  if (one.v.size() != 1) corrupt("not one value");
  one.shape = {};
  return broadcast_to(one, shape_of(integers_of(call.in(0))));
}

OnnxArray shape_operator(const OnnxCall& call) {
  const Shape& shape = call.in(0).shape;
  const auto rank = static_cast<int64_t>(shape.size());
  const auto limit = [&](int64_t at) { return std::clamp<int64_t>(at < 0 ? at + rank : at, 0, rank); };
  const int64_t begin = limit(int_attribute(call.node, "start", 0)), end = limit(int_attribute(call.node, "end", rank));
  std::vector<int64_t> extents;
  for (int64_t i = begin; i < end; ++i) extents.push_back(static_cast<int64_t>(shape[static_cast<size_t>(i)]));
  return onnx_integers(std::move(extents));
}

OnnxArray reshaped(OnnxArray array, std::vector<int64_t> extents, bool allow_zero) {
  size_t known = 1;
  int open = -1;
  for (size_t i = 0; i < extents.size(); ++i) {
    if (extents[i] == 0 && !allow_zero && i < array.shape.size()) extents[i] = static_cast<int64_t>(array.shape[i]);
    if (extents[i] == -1 && open < 0)
      open = static_cast<int>(i);
    else
      known *= shape_of({extents[i]})[0];
  }
  if (open >= 0) extents[static_cast<size_t>(open)] = known == 0 ? 0 : static_cast<int64_t>(array.v.size() / known);
  const Shape shape = shape_of(extents);
  if (element_count(shape) != array.v.size())
    corrupt(cat("shape ", describe(array.shape), " does not become ", describe(shape)));
  array.shape = shape;
  return array;
}

OnnxArray unsqueezed(const OnnxCall& call) {
  OnnxArray out = call.in(0);
  const std::vector<int64_t> axes = axes_of(call);
  std::vector<size_t> at;
  at.reserve(axes.size());
  for (const int64_t axis : axes) at.push_back(onnx_axis(axis, out.shape.size() + axes.size()));
  std::sort(at.begin(), at.end());
  for (const size_t axis : at) {
    if (axis > out.shape.size()) corrupt("axes that contradict each other");
    out.shape.insert(out.shape.begin() + static_cast<std::ptrdiff_t>(axis), 1);
  }
  return out;
}

OnnxArray squeezed(const OnnxCall& call) {
  OnnxArray out = call.in(0);
  std::vector<bool> drop(out.shape.size());
  const std::vector<int64_t> axes = axes_of(call);
  for (const int64_t axis : axes) drop[onnx_axis(axis, drop.size())] = true;
  Shape shape;
  for (size_t i = 0; i < drop.size(); ++i)
    if (!(axes.empty() ? out.shape[i] == 1 : drop[i])) shape.push_back(out.shape[i]);
  if (element_count(shape) != out.v.size()) corrupt("an axis to leave out is longer than 1");
  out.shape = shape;
  return out;
}

OnnxArray transposed(const OnnxCall& call) {
  const OnnxArray& a = call.in(0);
  const size_t rank = a.shape.size();
  const onnx::AttributeProto* perm = find_attribute(call.node, "perm");
  if (perm && static_cast<size_t>(perm->ints_size()) != rank) corrupt("perm of another length");
  const std::vector<int64_t> own = strides_of(a.shape);
  Shape shape(rank);
  std::vector<int64_t> strides(rank);
  for (size_t i = 0; i < rank; ++i) {
    const size_t from = perm ? onnx_axis(perm->ints(static_cast<int>(i)), rank) : rank - 1 - i;
    shape[i] = a.shape[from];
    strides[i] = own[from];
  }
  if (element_count(shape) != a.v.size()) corrupt("perm names an axis twice");
  return strided(a, shape, strides, 0);
}

OnnxArray concatenated(const OnnxCall& call) {
  const size_t axis = onnx_axis(axis_of(call, 0), call.in(0).shape.size());
  OnnxArray out{call.in(0).shape, {}, call.in(0).integer};
  out.shape[axis] = 0;
  size_t outer = 1;
  for (size_t i = 0; i < axis; ++i) outer *= out.shape[i];
  for (int i = 0; i < call.node.input_size(); ++i) {
    Shape shape = call.in(i).shape;
    if (shape.size() != out.shape.size()) corrupt("parts of different rank");
    out.shape[axis] += shape[axis];
    shape[axis] = out.shape[axis];
    if (shape != out.shape) corrupt("parts that do not fit");
  }
  for (size_t o = 0; o < outer; ++o)
    for (int i = 0; i < call.node.input_size(); ++i) {
      const std::vector<double>& part = call.in(i).v;
      const size_t run = part.size() / outer;
      out.v.insert(out.v.end(), part.begin() + static_cast<std::ptrdiff_t>(o * run),
                   part.begin() + static_cast<std::ptrdiff_t>((o + 1) * run));
    }
  return out;
}

OnnxArray sliced(const OnnxCall& call) {
  const OnnxArray& a = call.in(0);
  const std::vector<int64_t> begins = integers_of(call.in(1)), ends = integers_of(call.in(2));
  const std::vector<int64_t> axes = call.find(3) ? integers_of(*call.find(3)) : std::vector<int64_t>{};
  const std::vector<int64_t> steps = call.find(4) ? integers_of(*call.find(4)) : std::vector<int64_t>{};
  if (ends.size() != begins.size() || (!axes.empty() && axes.size() != begins.size()) ||
      (!steps.empty() && steps.size() != begins.size()))
    corrupt("starts, ends, axes and steps of different lengths");
  Shape shape = a.shape;
  std::vector<int64_t> strides = strides_of(a.shape);
  int64_t offset = 0;
  for (size_t i = 0; i < begins.size(); ++i) {
    const size_t axis = onnx_axis(axes.empty() ? static_cast<int64_t>(i) : axes[i], a.shape.size());
    const auto extent = static_cast<int64_t>(a.shape[axis]);
    const int64_t step = steps.empty() ? 1 : steps[i];
    if (step < 1) throw Error(ErrorKind::kUnsupported, "a slice that runs backwards");
    const auto limit = [&](int64_t at) { return std::clamp<int64_t>(at < 0 ? at + extent : at, 0, extent); };
    const int64_t begin = limit(begins[i]), end = std::max(begin, limit(ends[i]));
    shape[axis] = static_cast<size_t>((end - begin + std::min(step, extent + 1) - 1) / step);
    offset += begin * strides[axis];
    strides[axis] *= step;
  }
  return strided(a, shape, strides, offset);
}

size_t index_of(double value, size_t extent) {
  const auto at = static_cast<int64_t>(value);
  const int64_t from = at < 0 ? at + static_cast<int64_t>(extent) : at;
  if (from < 0 || static_cast<size_t>(from) >= extent) corrupt(cat("index ", at, " of ", extent));
  return static_cast<size_t>(from);
}

OnnxArray gathered(const OnnxCall& call) {
  const OnnxArray &a = call.in(0), &indices = call.in(1);
  const size_t axis = onnx_axis(axis_of(call, 0), a.shape.size());
  size_t outer = 1, inner = 1;
  for (size_t i = 0; i < axis; ++i) outer *= a.shape[i];
  for (size_t i = axis + 1; i < a.shape.size(); ++i) inner *= a.shape[i];
  OnnxArray out{a.shape, {}, a.integer};
  out.shape.erase(out.shape.begin() + static_cast<std::ptrdiff_t>(axis));
  out.shape.insert(out.shape.begin() + static_cast<std::ptrdiff_t>(axis), indices.shape.begin(), indices.shape.end());
  for (size_t o = 0; o < outer; ++o)
    for (const double index : indices.v) {
      const double* from = a.v.data() + (o * a.shape[axis] + index_of(index, a.shape[axis])) * inner;
      out.v.insert(out.v.end(), from, from + inner);
    }
  return out;
}

OnnxArray gathered_nd(const OnnxCall& call) {
  const OnnxArray &a = call.in(0), &indices = call.in(1);
  if (int_attribute(call.node, "batch_dims", 0) != 0) throw Error(ErrorKind::kUnsupported, "batch_dims");
  if (indices.shape.empty() || indices.shape.back() > a.shape.size()) corrupt("indices that are too long");
  const size_t depth = indices.shape.back();
  const std::vector<int64_t> strides = strides_of(a.shape);
  size_t inner = 1;
  for (size_t i = depth; i < a.shape.size(); ++i) inner *= a.shape[i];
  OnnxArray out{{indices.shape.begin(), indices.shape.end() - 1}, {}, a.integer};
  out.shape.insert(out.shape.end(), a.shape.begin() + static_cast<std::ptrdiff_t>(depth), a.shape.end());
  for (size_t i = 0; depth > 0 && i < indices.v.size(); i += depth) {
    size_t from = 0;
    for (size_t d = 0; d < depth; ++d) from += index_of(indices.v[i + d], a.shape[d]) * static_cast<size_t>(strides[d]);
    out.v.insert(out.v.end(), a.v.begin() + static_cast<std::ptrdiff_t>(from),
                 a.v.begin() + static_cast<std::ptrdiff_t>(from + inner));
  }
  if (out.v.size() != element_count(out.shape)) corrupt("indices of no depth");
  return out;
}

OnnxArray range(const OnnxCall& call) {
  const auto scalar = [&](int i) {
    return call.in(i).v.size() == 1 ? call.in(i).v[0] : (corrupt("not one value"), 0.0);
  };
  const double from = scalar(0), to = scalar(1), step = scalar(2);
  const double count = step == 0 ? -1 : std::ceil((to - from) / step);
  if (!(count < static_cast<double>(kMostElements)) || step == 0) corrupt("a range without end");
  OnnxArray out{{static_cast<size_t>(std::max(count, 0.0))}, {}, call.in(0).integer};
  for (size_t i = 0; i < out.shape[0]; ++i) out.v.push_back(from + static_cast<double>(i) * step);
  return out;
}

OnnxArray where(const OnnxCall& call) {
  const Shape shape = broadcast_shape(call.in(0).shape, broadcast_shape(call.in(1).shape, call.in(2).shape));
  const OnnxArray mask = broadcast_to(call.in(0), shape), other = broadcast_to(call.in(2), shape);
  OnnxArray out = broadcast_to(call.in(1), shape);
  for (size_t i = 0; i < out.v.size(); ++i)
    if (mask.v[i] == 0) out.v[i] = other.v[i];
  return out;
}

OnnxArray softmax(const OnnxCall& call) {
  OnnxArray out = call.in(0);
  if (onnx_axis(axis_of(call, -1), out.shape.size()) + 1 != out.shape.size())
    throw Error(ErrorKind::kUnsupported, "a softmax along another axis than the last");
  const size_t width = out.shape.back();
  for (size_t i = 0; i < out.v.size(); i += width) {
    double* row = out.v.data() + i;
    const double top = *std::max_element(row, row + width);
    double sum = 0;
    for (size_t k = 0; k < width; ++k) sum += row[k] = std::exp(row[k] - top);
    for (size_t k = 0; k < width; ++k) row[k] /= sum;
  }
  return out;
}

// Of the last axis.
OnnxArray reduced(const OnnxCall& call, bool mean) {
  const OnnxArray& a = call.in(0);
  const std::vector<int64_t> axes = axes_of(call);
  if (axes.size() != 1 || a.shape.empty() || onnx_axis(axes[0], a.shape.size()) + 1 != a.shape.size())
    throw Error(ErrorKind::kUnsupported, "a sum along other axes than the last");
  const size_t width = a.shape.back();
  if (width == 0) corrupt("a mean of nothing");
  OnnxArray out{a.shape, {}, a.integer};
  out.shape.pop_back();
  if (int_attribute(call.node, "keepdims", 1) != 0) out.shape.push_back(1);
  for (size_t i = 0; i < a.v.size(); i += width) {
    double sum = 0;
    for (size_t k = 0; k < width; ++k) sum += a.v[i + k];
    out.v.push_back(mean ? sum / static_cast<double>(width) : sum);
  }
  return out;
}

// Enough for a few tokens.
constexpr double kMostProducts = 1e9;

OnnxArray multiplied(const OnnxCall& call) {
  const OnnxArray &a = call.in(0), &b = call.in(1);
  if (a.shape.size() < 2 || b.shape.size() < 2) throw Error(ErrorKind::kUnsupported, "a product of vectors");
  const size_t rows = a.shape[a.shape.size() - 2], depth = a.shape.back(), cols = b.shape.back();
  if (b.shape[b.shape.size() - 2] != depth)
    corrupt(cat("a product of ", describe(a.shape), " and ", describe(b.shape)));
  Shape shape = broadcast_shape({a.shape.begin(), a.shape.end() - 2}, {b.shape.begin(), b.shape.end() - 2});
  const auto spread = [&](const OnnxArray& array) {
    Shape full = shape;
    full.insert(full.end(), array.shape.end() - 2, array.shape.end());
    return broadcast_to(array, full);
  };
  const OnnxArray left = spread(a), right = spread(b);
  const size_t batches = element_count(shape);
  if (static_cast<double>(batches) * static_cast<double>(rows * cols) * static_cast<double>(depth) > kMostProducts)
    throw Error(ErrorKind::kUnsupported, "a product too large to be looked at");
  shape.insert(shape.end(), {rows, cols});
  OnnxArray out = broadcast_to({{}, {0.0}, false}, shape);
  for (size_t n = 0; n < batches; ++n)
    for (size_t r = 0; r < rows; ++r)
      for (size_t k = 0; k < depth; ++k) {
        const double x = left.v[(n * rows + r) * depth + k];
        const double* w = right.v.data() + (n * depth + k) * cols;
        double* y = out.v.data() + (n * rows + r) * cols;
        for (size_t c = 0; c < cols; ++c) y[c] += x * w[c];
      }
  return out;
}

OnnxArray cast(const OnnxCall& call) {
  constexpr int64_t kBool = 9;
  const int64_t to = int_attribute(call.node, "to", 0);
  const bool to_float = to == onnx_type::kFloat || to == onnx_type::kFloat16 || to == onnx_type::kBFloat16 || to == 11;
  OnnxArray out = call.in(0);
  out.integer = !to_float;
  if (to == kBool)
    for (double& x : out.v) x = x != 0 ? 1 : 0;
  else if (!to_float)
    for (double& x : out.v) x = std::trunc(x);
  return out;
}

// Keeps what lies above (`upper`) or below the k-th diagonal.
OnnxArray triangle(const OnnxCall& call) {
  OnnxArray out = call.in(0);
  if (out.shape.size() < 2) corrupt("a triangle of a vector");
  const size_t cols = out.shape.back(), rows = out.shape[out.shape.size() - 2];
  const int64_t k = call.find(1) && call.find(1)->v.size() == 1 ? integers_of(*call.find(1))[0] : 0;
  const bool upper = int_attribute(call.node, "upper", 1) != 0;
  for (size_t i = 0; i < out.v.size(); ++i) {
    const int64_t above = static_cast<int64_t>(i % cols) - static_cast<int64_t>(i / cols % rows);
    if (upper ? above < k : above > k) out.v[i] = 0;
  }
  return out;
}

// y = x / sqrt(mean(x^2) + epsilon) * weight, along the last axis.
OnnxArray rms_norm(const OnnxCall& call) {
  const OnnxArray& weight = call.in(1);
  OnnxArray out = call.in(0);
  const size_t width = weight.v.size();
  if (out.shape.empty() || out.shape.back() != width || width == 0) corrupt("a norm of another width than its weight");
  const auto epsilon = static_cast<double>(float_attribute(call.node, "epsilon", 1e-5f));
  for (size_t i = 0; i < out.v.size(); i += width) {
    double sum = 0;
    for (size_t k = 0; k < width; ++k) sum += out.v[i + k] * out.v[i + k];
    const double factor = 1 / std::sqrt(sum / static_cast<double>(width) + epsilon);
    for (size_t k = 0; k < width; ++k) out.v[i + k] *= factor * weight.v[k];
  }
  return out;
}

using Operator = std::function<OnnxArray(const OnnxCall& call)>;

Operator unary(double (*f)(double)) {
  return [f](const OnnxCall& call) { return each_element(call.in(0), f); };
}
Operator arithmetic(double (*f)(double, double)) {
  return [f](const OnnxCall& call) { return each_pair(call.in(0), call.in(1), call.in(0).integer, f); };
}
Operator comparison(bool (*f)(double, double)) {
  return [f](const OnnxCall& call) {
    return each_pair(call.in(0), call.in(1), true, [f](double x, double y) { return f(x, y) ? 1.0 : 0.0; });
  };
}

OnnxArray divided(const OnnxCall& call) {
  const bool integer = call.in(0).integer;
  return each_pair(call.in(0), call.in(1), integer, [&](double a, double b) {
    if (integer && b == 0) corrupt("a division by 0");
    return integer ? std::trunc(a / b) : a / b;
  });
}

const std::map<std::string_view, Operator>& operators() {
  static const std::map<std::string_view, Operator> known = {
      {"Add", arithmetic([](double a, double b) { return a + b; })},
      {"Sub", arithmetic([](double a, double b) { return a - b; })},
      {"Mul", arithmetic([](double a, double b) { return a * b; })},
      {"Div", divided},
      {"Pow", arithmetic([](double a, double b) { return std::pow(a, b); })},
      {"Max", arithmetic([](double a, double b) { return std::max(a, b); })},
      {"Min", arithmetic([](double a, double b) { return std::min(a, b); })},
      {"And", comparison([](double a, double b) { return a != 0 && b != 0; })},
      {"Or", comparison([](double a, double b) { return a != 0 || b != 0; })},
      {"Equal", comparison([](double a, double b) { return a == b; })},
      {"Less", comparison([](double a, double b) { return a < b; })},
      {"LessOrEqual", comparison([](double a, double b) { return a <= b; })},
      {"Greater", comparison([](double a, double b) { return a > b; })},
      {"GreaterOrEqual", comparison([](double a, double b) { return a >= b; })},
      {"Not", unary([](double a) { return a == 0 ? 1.0 : 0.0; })},
      {"Neg", unary([](double a) { return -a; })},
      {"Sqrt", unary([](double a) { return std::sqrt(a); })},
      {"Reciprocal", unary([](double a) { return 1 / a; })},
      {"Cos", unary([](double a) { return std::cos(a); })},
      {"Sin", unary([](double a) { return std::sin(a); })},
      {"Sigmoid", unary([](double a) { return 1 / (1 + std::exp(-a)); })},
      {"Identity", unary([](double a) { return a; })},
      {"IsNaN",
       [](const OnnxCall& call) {
         OnnxArray out = each_element(call.in(0), [](double a) { return std::isnan(a) ? 1.0 : 0.0; });
         out.integer = true;
         return out;
       }},
      {"Cast", cast},
      {"Constant", constant},
      {"ConstantOfShape", constant_of_shape},
      {"Shape", shape_operator},
      {"Reshape",
       [](const OnnxCall& call) {
         return reshaped(call.in(0), integers_of(call.in(1)), int_attribute(call.node, "allowzero", 0) != 0);
       }},
      {"Flatten",
       [](const OnnxCall& call) {
         const Shape& shape = call.in(0).shape;
         const int64_t axis = axis_of(call, 1);
         const size_t at = axis == static_cast<int64_t>(shape.size()) ? shape.size() : onnx_axis(axis, shape.size());
         int64_t rows = 1, cols = 1;
         for (size_t i = 0; i < shape.size(); ++i) (i < at ? rows : cols) *= static_cast<int64_t>(shape[i]);
         return reshaped(call.in(0), {rows, cols}, true);
       }},
      {"Unsqueeze", unsqueezed},
      {"Squeeze", squeezed},
      {"Transpose", transposed},
      {"Concat", concatenated},
      {"Slice", sliced},
      {"Gather", gathered},
      {"GatherND", gathered_nd},
      {"Expand",
       [](const OnnxCall& call) {
         return broadcast_to(call.in(0), broadcast_shape(call.in(0).shape, shape_of(integers_of(call.in(1)))));
       }},
      {"Range", range},
      {"Where", where},
      {"Trilu", triangle},
      {"Softmax", softmax},
      {"ReduceMean", [](const OnnxCall& call) { return reduced(call, true); }},
      {"ReduceSum", [](const OnnxCall& call) { return reduced(call, false); }},
      {"MatMul", multiplied},
      {"SimplifiedLayerNormalization", rms_norm},
      {"RMSNormalization", rms_norm},
      {"Attention", onnx_attention},
      {"RotaryEmbedding", onnx_rotary_embedding},
  };
  return known;
}

}  // namespace

const OnnxArray& OnnxCall::in(int input) const {
  const OnnxArray* found = find(input);
  if (!found) corrupt(cat("input ", input, " is left out"));
  return *found;
}

OnnxArray compute_onnx(const OnnxCall& call) {
  const auto found = operators().find(call.node.op_type());
  if (found == operators().end() || !(call.node.domain().empty() || call.node.domain() == "ai.onnx"))
    throw Error(ErrorKind::kUnsupported, cat("is a ", call.node.op_type(), ", which nibble does not compute"));
  return found->second(call);
}

}  // namespace nibble
