#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "export/exporter.h"

// How ONNX Runtime's operators hold quantized weights. W is [rows = N, cols = K]. Source: ContribOperators.md of ONNX
// Runtime and runs of it; which sizes it accepts, in docs/onnx.md.
namespace nibble {

// Columns that share a scale in the file: a power of two from 16 to `most` that divides the spec's groups; longer
// groups repeat their scale. Nothing where no operator holds the spec: other bits, tables of levels, groups without
// such a divisor.
std::optional<size_t> onnx_block(const QuantSpec& spec, size_t most);

// The same for MatMulBnb4, whose blocks run on from row to row: they must divide rows of `cols` columns too. NF4 and
// bitsandbytes' FP4 alone; E2M1 has other levels.
std::optional<size_t> onnx_table_block(const QuantSpec& spec, size_t cols);

// Sizes of a weight packed as MatMulNBits (`padded`: each row ends with a whole block) or GatherBlockQuantized wants
// it.
struct OnnxBlocks {
  int bits;
  size_t block, cols, blocks;  // blocks in a row
  size_t row_bytes;            // of codes
  size_t zero_row_bytes;       // of packed zero points
  bool zeros, float_zeros;

  OnnxBlocks(const QuantSpec& spec, size_t block, size_t cols, bool padded);
  size_t codes_bytes(size_t rows) const { return rows * row_bytes; }
  size_t scale_bytes(size_t rows, DType dtype) const { return byte_size(dtype, rows * blocks); }
  size_t zero_bytes(size_t rows, DType dtype) const;  // 0 without zero points
};

// Rows of codes, [q.rows, row_bytes]; padding columns hold the code of 0.
std::vector<std::byte> onnx_codes(const QuantizedMatrix& q, const OnnxBlocks& layout);
// [q.rows, blocks] in the spec's scale_dtype.
std::vector<std::byte> onnx_scales(const QuantizedMatrix& q, const OnnxBlocks& layout);
// [q.rows, zero_row_bytes], or [q.rows, blocks] of the scales' type where zero points are real numbers (-min / scale).
std::vector<std::byte> onnx_zeros(const QuantizedMatrix& q, const OnnxBlocks& layout);

}  // namespace nibble
