#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "quant/spec.h"

namespace nibble {

// The canonical form of a quantized weight: what every algorithm produces and every exporter and packer consumes. One
// code per byte, no file layout, no kernel layout. It may be a slice of rows of a larger matrix.
//
//   w[r][c] = scale * (grid(code) - zero)    mins empty
//   w[r][c] = scale * grid(code) + min       mins present (Q4_1, K-quants, real-valued zeros: min = -scale * zero)
//
// with scale, zero and min of row r and the group of column c; zero = 2^(bits-1) where an integer grid has neither
// zeros nor mins, 0 for table grids. Computed in float in exactly this order. With spec.per_tensor, scales/zeros/mins
// hold one value. One exception: 1-bit symmetric codes 0 and 1 stand for -1 and +1, so w = scale * (2 * code - 1).
// value_map() below knows.
struct QuantizedMatrix {
  QuantSpec spec;
  size_t rows = 0;                   // output features
  size_t cols = 0;                   // input features
  std::vector<uint8_t> codes{};      // [rows, cols], in [0, 2^bits)
  std::vector<float> scales{};       // [rows, groups], values of spec.scale_dtype
  std::vector<uint8_t> zeros{};      // [rows, groups], in [0, 2^bits); empty when symmetric or when mins are present
  std::vector<float> mins{};         // [rows, groups] or empty
  std::vector<uint32_t> group_of{};  // [cols], each < groups; empty: group = column / group size

  size_t groups() const { return spec.groups(cols); }
};

// One group's map as kernels::scale_codes takes it: value = scale * (code - zero), for integer grids without mins.
struct ValueMap {
  float scale;
  float zero;
};
// `zero` is the group's zero point, or spec.symmetric_zero(). This is the one place that knows how 1-bit symmetric
// codes become {-1, +1}: (2 s) * (code - 1/2) == s * (2 code - 1), exactly.
inline ValueMap value_map(const QuantSpec& spec, float scale, int zero) {
  if (spec.bits == 1 && spec.symmetric) return {2.0f * scale, 0.5f};
  return {scale, static_cast<float>(zero)};
}

// out is [rows, cols].
void dequantize(const QuantizedMatrix& q, MatrixView<float> out);
// Checks extents and ranges against each other; throws Error(kCorrupt). For matrices that came from a file.
void validate(const QuantizedMatrix& q);

}  // namespace nibble
