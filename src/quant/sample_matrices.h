#pragma once
#include <cstddef>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "formats/safetensors.h"
#include "quant/quantized_matrix.h"

// For tests: every kind of grid, and random matrices in it.
namespace nibble::testing_support {

// Groups for a row of `cols` columns: one, odd, dividing, not dividing, longer than the row, the row itself.
inline std::vector<QuantSpec> every_spec() {
  std::vector<QuantSpec> specs;
  const auto add = [&](QuantSpec spec) {
    for (size_t group :
         {size_t{1}, size_t{3}, size_t{16}, size_t{50}, size_t{64}, size_t{4096}, QuantSpec::kWholeRow}) {
      spec.group = group;
      specs.push_back(spec);
    }
    spec.per_tensor = true;  // group is kWholeRow by now
    specs.push_back(spec);
  };
  for (int bits = 1; bits <= 8; ++bits) {
    add({.bits = bits});
    add({.bits = bits, .full_range = true});
    add({.bits = bits, .symmetric = false});
    add({.bits = bits, .symmetric = false, .scale_dtype = DType::kF16});
    add({.bits = bits, .symmetric = false, .mins = true});
  }
  for (Grid grid : kTables16) add({.bits = 4, .grid = grid, .scale_dtype = DType::kBF16});
  add({.bits = 8, .grid = Grid::kFP8});
  return specs;
}

// Any codes, small dyadic scales (exact in every scale type), finite values.
inline QuantizedMatrix random_matrix(const QuantSpec& spec, size_t rows, size_t cols, uint64_t seed) {
  Random random(seed);
  QuantizedMatrix q;
  q.spec = spec;
  q.rows = rows;
  q.cols = cols;
  const size_t groups = spec.per_tensor ? 1 : rows * spec.groups(cols);
  const uint64_t codes = uint64_t{1} << spec.bits;
  const auto dyadic = [&] { return static_cast<float>(static_cast<int>(random.next() % 255) - 127) / 64.0f; };
  for (size_t i = 0; i < rows * cols; ++i) {
    q.codes.push_back(static_cast<uint8_t>(random.next() % codes));
    if (spec.grid == Grid::kFP8 && (q.codes.back() & 127) == 127) q.codes.back() = 0;  // no NaN
  }
  for (size_t i = 0; i < groups; ++i) {
    q.scales.push_back(dyadic());
    if (spec.mins) q.mins.push_back(dyadic());
    if (!spec.symmetric && !spec.mins) q.zeros.push_back(static_cast<uint8_t>(random.next() % codes));
  }
  return q;
}

inline QuantizedMatrix rows_of(const QuantizedMatrix& q, size_t begin, size_t end) {
  QuantizedMatrix out = q;
  out.rows = end - begin;
  const auto cut = [&](auto& values, size_t width) {
    using Values = std::remove_reference_t<decltype(values)>;
    if (!values.empty())
      values = Values(values.begin() + static_cast<ptrdiff_t>(begin * width),
                      values.begin() + static_cast<ptrdiff_t>(end * width));
  };
  cut(out.codes, q.cols);
  if (q.spec.per_tensor) return out;
  cut(out.scales, q.groups());
  cut(out.zeros, q.groups());
  cut(out.mins, q.groups());
  return out;
}

inline bool same(const QuantizedMatrix& a, const QuantizedMatrix& b) {
  return a.spec == b.spec && a.rows == b.rows && a.cols == b.cols && a.codes == b.codes && a.scales == b.scales &&
         a.zeros == b.zeros && a.mins == b.mins && a.group_of == b.group_of;
}

inline std::vector<float> values_of(const QuantizedMatrix& q) {
  std::vector<float> out(q.rows * q.cols);
  dequantize(q, matrix(out.data(), q.rows, q.cols));
  return out;
}

// A golden file's tensors by name.
inline std::map<std::string, TensorView> golden(const std::string& name) {
  std::map<std::string, TensorView> out;
  for (const SafeTensor& tensor : SafeTensorsFile::open(std::string(NIBBLE_TEST_DATA) + "/quant/" + name).tensors)
    out[tensor.name] = tensor.view;
  return out;
}

template <class T>
std::vector<T> values(const TensorView& view) {
  std::vector<T> out(view.bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), view.bytes.data(), view.bytes.size());
  return out;
}

// The message of the Error that `body` throws; "" when it does not.
template <class Body>
std::string message_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace nibble::testing_support
