#pragma once
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "quant/packed_matrix.h"
#include "quant/stored_parts.h"

namespace nibble {

// MODULE.weight F8_E4M3 [rows, cols] with float scales that multiply it: one (a scalar or [1]), one for each row
// ([rows] or [rows, 1]), or one for each block, [ceil(rows / height), ceil(cols / width)] (DeepSeek-V3, transformers'
// quant_method "fp8"). Immutable, thread-safe.
class Fp8Weight {
 public:
  struct Block {
    size_t height, width;
  };
  // Is the weight in E4M3?
  static bool present(const StoredParts& parts);
  // `scales`: the suffix of the scales, ".weight_scale_inv". `block`: what config.json says; nothing for one or a
  // row's.
  static Fp8Weight open(const StoredParts& parts, std::string_view scales, std::optional<Block> block);

  const QuantSpec& spec() const { return spec_; }
  size_t rows() const { return codes_.shape[0]; }
  size_t cols() const { return codes_.shape[1]; }
  size_t bytes() const { return bytes_; }
  QuantizedMatrix read_codes(size_t begin, size_t end) const;
  // The codes stay in the mapping.
  PackedMatrix packed() const;
  std::span<const std::byte> code_bytes(size_t begin, size_t end) const;

 private:
  std::vector<float> row_scales(size_t begin, size_t end) const;

  QuantSpec spec_;
  TensorView codes_;
  std::vector<float> scales_;  // [rows / height, groups]
  size_t height_ = 1;
  size_t bytes_ = 0;
};

}  // namespace nibble
