#pragma once
#include <cstddef>
#include <string_view>
#include <vector>

#include "formats/onnx_graph.h"
#include "formats/onnx_model.h"

namespace nibble {

// A value of an ONNX graph, whatever its type, as doubles: exact for float32 and for integers up to 2^53.
struct OnnxArray {
  Shape shape;
  std::vector<double> v;  // row-major
  bool integer = false;   // integers and truth values
};

// More elements than this are refused with Error(kUnsupported): a graph that is only looked at needs none.
inline constexpr size_t kMostElements = size_t{1} << 24;

// Throws Error(kUnsupported) for types that are not numbers and for sizes beyond the above.
OnnxArray read_onnx_array(const OnnxModel& model, const onnx::TensorProto& proto);
// The tensor of an initializer that nobody can replace, or of a Constant node; else null.
const onnx::TensorProto* find_onnx_constant(const OnnxGraphIndex& index, const std::string& value);
OnnxArray onnx_integers(std::vector<int64_t> values);  // a vector
std::vector<int64_t> integers_of(const OnnxArray& array);

// NumPy's rules. Throws Error(kCorrupt) when the extents contradict each other.
Shape broadcast_shape(const Shape& a, const Shape& b);
OnnxArray broadcast_to(const OnnxArray& array, const Shape& shape);
// out[i...] = array.v[offset + sum of i * strides]. Throws Error(kCorrupt) when that leaves the array.
OnnxArray strided(const OnnxArray& array, const Shape& shape, const std::vector<int64_t>& strides, int64_t offset);
// Row-major strides.
std::vector<int64_t> strides_of(const Shape& shape);
// The dimension that `axis`, which may count from the end, means. Throws Error(kCorrupt).
size_t onnx_axis(int64_t axis, size_t rank);

template <class F>
OnnxArray each_element(const OnnxArray& a, const F& f) {
  OnnxArray out = a;
  for (double& x : out.v) x = f(x);
  return out;
}

// integer: what it gives, whatever it takes.
template <class F>
OnnxArray each_pair(const OnnxArray& a, const OnnxArray& b, bool integer, const F& f) {
  const Shape shape = broadcast_shape(a.shape, b.shape);
  OnnxArray out = broadcast_to(a, shape);
  const OnnxArray other = broadcast_to(b, shape);
  for (size_t i = 0; i < out.v.size(); ++i) out.v[i] = f(out.v[i], other.v[i]);
  out.integer = integer;
  return out;
}

}  // namespace nibble
