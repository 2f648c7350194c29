#pragma once
#include <cstddef>
#include <span>

#include "core/tensor.h"
#include "quant/packed_matrix.h"
#include "quant/stored_parts.h"

namespace nibble {

// MXFP4 of the OCP Microscaling specification 1.0: E2M1 codes, two to a byte, the first in the low half; every 32
// columns share a power of two, stored as its exponent + 127 (E8M0). Immutable, thread-safe.
class Mxfp4Weight {
 public:
  static constexpr size_t kGroup = 32;

  // `codes`: U8 [..., cols / 32, 16] (gpt-oss) or [rows, cols / 2] (compressed-tensors); `scales`: U8 [..., cols / 32].
  // Leading extents beyond the first count as columns.
  static Mxfp4Weight open(const StoredParts& parts, std::string_view codes, std::string_view scales);

  const Shape& shape() const { return shape_; }  // of the weight
  QuantSpec spec() const;
  size_t rows() const { return shape_[0]; }
  size_t cols() const { return codes_.bytes.size() / rows() * 2; }
  size_t bytes() const { return codes_.bytes.size() + scales_.bytes.size(); }
  QuantizedMatrix read_codes(size_t begin, size_t end) const;
  // The codes stay in the mapping.
  PackedMatrix packed() const;
  std::span<const std::byte> code_bytes(size_t begin, size_t end) const;

 private:
  std::vector<float> row_scales(size_t begin, size_t end) const;

  Shape shape_;
  TensorView codes_;
  TensorView scales_;
};

}  // namespace nibble
