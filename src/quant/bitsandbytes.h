#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "quant/packed_matrix.h"
#include "quant/stored_parts.h"

// Weights of bitsandbytes 0.41 and later as transformers saves them. Source: its functional.py (QuantState.as_dict) and
// dequantization kernels.
namespace nibble {

// Linear4bit: blocks of the flattened matrix share a scale; two codes to a byte, the first in the high half. Tensors:
// MODULE.weight (the bytes, of any dtype), .weight.absmax (F32 [blocks], or U8 when the scales are quantized
// themselves), .weight.quant_map F32 [16], .weight.quant_state.bitsandbytes__{nf4,fp4} (JSON in U8), and with quantized
// scales .weight.nested_absmax F32, .weight.nested_quant_map F32 [256]. Immutable, thread-safe.
//   value = quant_map[code] * scale, scale = nested_quant_map[absmax] * nested_absmax + nested_offset
class Bitsandbytes4 {
 public:
  static bool present(const StoredParts& parts);
  static Bitsandbytes4 open(const StoredParts& parts);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t bytes() const { return bytes_; }
  bool nf4() const { return nf4_; }
  size_t block() const { return block_; }
  DType dtype() const { return dtype_; }  // that the weight had before
  // Can it be said as QuantizedMatrix: the levels of NF4 or FP4, and blocks that end where rows end?
  bool canonical() const;
  void read_rows(size_t begin, size_t end, float* out) const;

  // Only when canonical().
  QuantSpec spec() const;
  QuantizedMatrix read_codes(size_t begin, size_t end) const;
  PackedMatrix packed() const;
  std::span<const std::byte> code_bytes(size_t begin, size_t end) const;

 private:
  uint8_t code(size_t index) const {
    const auto byte = static_cast<uint8_t>(codes_.bytes[index / 2]);
    return index % 2 == 0 ? byte >> 4 : byte & 15;
  }
  float scale(size_t index) const;

  size_t rows_ = 0, cols_ = 0, bytes_ = 0, block_ = 0;
  bool nf4_ = false;
  DType dtype_ = DType::kF32;
  TensorView codes_;
  TensorView scales_;                 // F32, or U8 when nested
  std::vector<float> levels_;         // [16]
  std::vector<float> nested_levels_;  // [256], or empty
  std::vector<float> nested_scales_;
  size_t nested_block_ = 0;
  float nested_offset_ = 0;
};

// Linear8bitLt: MODULE.weight I8 [rows, cols], MODULE.SCB F32 [rows], the largest magnitude of each row:
// value = code * SCB / 127.
class Bitsandbytes8 {
 public:
  static bool present(const StoredParts& parts);
  static Bitsandbytes8 open(const StoredParts& parts);

  QuantSpec spec() const { return {.bits = 8, .group = QuantSpec::kWholeRow}; }
  size_t rows() const { return codes_.shape[0]; }
  size_t cols() const { return codes_.shape[1]; }
  size_t bytes() const { return codes_.bytes.size() + 4 * scales_.size(); }
  QuantizedMatrix read_codes(size_t begin, size_t end) const;
  PackedMatrix packed() const;
  std::span<const std::byte> code_bytes(size_t begin, size_t end) const;

 private:
  TensorView codes_;
  std::vector<float> scales_;
};

}  // namespace nibble
