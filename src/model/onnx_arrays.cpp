#include "model/onnx_arrays.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "model/source_floats.h"

namespace nibble {
namespace {

constexpr int kInt32 = 6, kBool = 9, kDouble = 11;

size_t checked_count(const Shape& shape) {
  size_t count = 1;
  for (const size_t extent : shape) {
    if (extent != 0 && count > kMostElements / extent)
      throw Error(ErrorKind::kUnsupported, cat("a value of shape ", describe(shape), " is too large to be looked at"));
    count *= extent;
  }
  return count;
}

template <class T>
void read_numbers(const OnnxTensor& tensor, std::vector<double>& out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, tensor.bytes.data() + i * sizeof value, sizeof value);
    out[i] = static_cast<double>(value);
  }
}

}  // namespace

OnnxArray read_onnx_array(const OnnxModel& model, const onnx::TensorProto& proto) {
  const OnnxTensor tensor = model.tensor(proto);
  OnnxArray array;
  array.shape = tensor.shape;
  array.v.resize(checked_count(tensor.shape));
  array.integer = true;
  for (const auto& [type, read] : {std::pair(onnx_type::kInt64, &read_numbers<int64_t>),
                                   {kInt32, &read_numbers<int32_t>},
                                   {onnx_type::kInt8, &read_numbers<int8_t>},
                                   {onnx_type::kUint8, &read_numbers<uint8_t>},
                                   {kBool, &read_numbers<uint8_t>},
                                   {kDouble, &read_numbers<double>}}) {
    if (type != tensor.type) continue;
    array.integer = type != kDouble;
    read(tensor, array.v);
    return array;
  }
  array.integer = false;
  const auto dtype = onnx_dtype(tensor.type);
  if (!dtype || !is_float(*dtype))
    throw Error(ErrorKind::kUnsupported, cat(proto.name(), " is of type ", onnx_type_name(tensor.type)));
  std::vector<float> floats(array.v.size());
  floats_from_bytes(*dtype, tensor.bytes.data(), floats.size(), floats.data(), proto.name());
  std::copy(floats.begin(), floats.end(), array.v.begin());
  return array;
}

const onnx::TensorProto* find_onnx_constant(const OnnxGraphIndex& index, const std::string& value) {
  if (index.is_constant(value)) return index.initializer(value);
  const onnx::NodeProto* node = index.producer(value);
  const onnx::AttributeProto* attribute =
      node && node->op_type() == "Constant" ? find_attribute(*node, "value") : nullptr;
  return attribute && attribute->has_t() ? &attribute->t() : nullptr;
}

OnnxArray onnx_integers(std::vector<int64_t> values) { return {{values.size()}, {values.begin(), values.end()}, true}; }

std::vector<int64_t> integers_of(const OnnxArray& array) {
  std::vector<int64_t> values;
  values.reserve(array.v.size());
  // A slice's end may be the largest integer, which no double is.
  constexpr double kMost = 9e18;
  for (const double x : array.v) {
    if (!(x == x)) throw Error(ErrorKind::kCorrupt, "an index is not a number");
    values.push_back(static_cast<int64_t>(std::clamp(x, -kMost, kMost)));
  }
  return values;
}

Shape broadcast_shape(const Shape& a, const Shape& b) {
  const Shape& longer = a.size() >= b.size() ? a : b;
  const Shape& shorter = a.size() >= b.size() ? b : a;
  Shape out = longer;
  for (size_t i = 0; i < shorter.size(); ++i) {
    size_t& extent = out[longer.size() - shorter.size() + i];
    if (extent != shorter[i] && extent != 1 && shorter[i] != 1)
      throw Error(ErrorKind::kCorrupt, cat("shapes ", describe(a), " and ", describe(b), " do not fit"));
    if (extent == 1) extent = shorter[i];
  }
  return out;
}

std::vector<int64_t> strides_of(const Shape& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0; step *= static_cast<int64_t>(shape[i])) strides[i] = step;
  return strides;
}

OnnxArray broadcast_to(const OnnxArray& array, const Shape& shape) {
  if (array.shape == shape) return array;
  if (broadcast_shape(array.shape, shape) != shape)
    throw Error(ErrorKind::kCorrupt, cat("shape ", describe(array.shape), " does not become ", describe(shape)));
  const std::vector<int64_t> own = strides_of(array.shape);
  std::vector<int64_t> strides(shape.size(), 0);
  const size_t added = shape.size() - array.shape.size();
  for (size_t i = 0; i < own.size(); ++i) strides[added + i] = array.shape[i] == 1 ? 0 : own[i];
  return strided(array, shape, strides, 0);
}

OnnxArray strided(const OnnxArray& array, const Shape& shape, const std::vector<int64_t>& strides, int64_t offset) {
  OnnxArray out{shape, std::vector<double>(checked_count(shape)), array.integer};
  std::vector<size_t> at(shape.size(), 0);
  int64_t from = offset;
  for (double& value : out.v) {
    if (from < 0 || from >= static_cast<int64_t>(array.v.size()))
      throw Error(ErrorKind::kCorrupt, cat("an index leaves shape ", describe(array.shape)));
    value = array.v[static_cast<size_t>(from)];
    for (size_t d = shape.size(); d-- > 0;) {
      from += strides[d];
      if (++at[d] < shape[d]) break;
      from -= strides[d] * static_cast<int64_t>(shape[d]);
      at[d] = 0;
    }
  }
  return out;
}

size_t onnx_axis(int64_t axis, size_t rank) {
  const auto dims = static_cast<int64_t>(rank);
  if (axis < -dims || axis >= dims)
    throw Error(ErrorKind::kCorrupt, cat("axis ", axis, " of a value with ", rank, " dimensions"));
  return static_cast<size_t>(axis < 0 ? axis + dims : axis);
}

}  // namespace nibble
