#include "export/onnx_layout.h"

#include <algorithm>

#include "core/checked.h"
#include "export/float_bytes.h"

namespace nibble {
namespace {

// Index of the group of block `b`'s columns among the groups of its row.
size_t group_of_block(const QuantizedMatrix& q, const OnnxBlocks& layout, size_t block) {
  return q.spec.per_tensor ? 0 : block * layout.block / q.spec.group_size(q.cols);
}

size_t first_group(const QuantizedMatrix& q, size_t row) { return q.spec.per_tensor ? 0 : row * q.groups(); }

}  // namespace

std::optional<size_t> onnx_block(const QuantSpec& spec, size_t most) {
  if (spec.grid != Grid::kInt || (spec.bits != 2 && spec.bits != 4 && spec.bits != 8)) return std::nullopt;
  if (spec.mins && spec.bits == 8) return std::nullopt;
  if (spec.per_tensor || spec.group == QuantSpec::kWholeRow) return most;
  constexpr size_t kLeast = 16;
  for (size_t block = most; block >= kLeast; block /= 2)
    if (spec.group % block == 0) return block;
  return std::nullopt;
}

std::optional<size_t> onnx_table_block(const QuantSpec& spec, size_t cols) {
  if (spec.grid != Grid::kNF4 && spec.grid != Grid::kFP4Bnb) return std::nullopt;
  const size_t group = spec.per_tensor ? cols : spec.group_size(cols);
  for (size_t block = 256; block >= 16; block /= 2)
    if (group % block == 0 && cols % block == 0) return block;
  return std::nullopt;
}

OnnxBlocks::OnnxBlocks(const QuantSpec& spec, size_t block_size, size_t row_cols, bool padded)
    : bits(spec.bits),
      block(block_size),
      cols(row_cols),
      blocks(ceil_div(row_cols, block_size)),
      row_bytes(ceil_div((padded ? blocks * block : cols) * static_cast<size_t>(bits), 8)),
      zero_row_bytes(ceil_div(blocks * static_cast<size_t>(bits), 8)),
      zeros(!spec.symmetric),
      float_zeros(spec.mins) {}

size_t OnnxBlocks::zero_bytes(size_t rows, DType dtype) const {
  if (!zeros) return 0;
  return float_zeros ? scale_bytes(rows, dtype) : rows * zero_row_bytes;
}

std::vector<std::byte> onnx_codes(const QuantizedMatrix& q, const OnnxBlocks& layout) {
  std::vector<std::byte> bytes(layout.codes_bytes(q.rows));
  const size_t width = layout.row_bytes * 8 / static_cast<size_t>(layout.bits);
  std::vector<uint8_t> row(std::max(width, q.cols));
  for (size_t r = 0; r < q.rows; ++r) {
    std::copy_n(q.codes.data() + r * q.cols, q.cols, row.data());
    const size_t last = first_group(q, r) + group_of_block(q, layout, layout.blocks - 1);
    const int zero = layout.zeros && !layout.float_zeros ? q.zeros[last] : layout.zeros ? 0 : q.spec.symmetric_zero();
    std::fill(row.begin() + static_cast<std::ptrdiff_t>(q.cols), row.end(), static_cast<uint8_t>(zero));
    pack_codes(row.data(), layout.bits, std::max(width, q.cols),
               reinterpret_cast<uint8_t*>(bytes.data()) + r * layout.row_bytes);
  }
  return bytes;
}

std::vector<std::byte> onnx_scales(const QuantizedMatrix& q, const OnnxBlocks& layout) {
  std::vector<float> scales(q.rows * layout.blocks);
  for (size_t r = 0; r < q.rows; ++r)
    for (size_t b = 0; b < layout.blocks; ++b)
      scales[r * layout.blocks + b] = q.scales[first_group(q, r) + group_of_block(q, layout, b)];
  return float_bytes(scales, q.spec.scale_dtype);
}

std::vector<std::byte> onnx_zeros(const QuantizedMatrix& q, const OnnxBlocks& layout) {
  if (layout.float_zeros) {
    std::vector<float> zeros(q.rows * layout.blocks);
    for (size_t r = 0; r < q.rows; ++r)
      for (size_t b = 0; b < layout.blocks; ++b) {
        const size_t group = first_group(q, r) + group_of_block(q, layout, b);
        zeros[r * layout.blocks + b] = -q.mins[group] / q.scales[group];
      }
    return float_bytes(zeros, q.spec.scale_dtype);
  }
  std::vector<std::byte> bytes(q.rows * layout.zero_row_bytes);
  std::vector<uint8_t> row(layout.blocks);
  for (size_t r = 0; r < q.rows; ++r) {
    for (size_t b = 0; b < layout.blocks; ++b) row[b] = q.zeros[first_group(q, r) + group_of_block(q, layout, b)];
    pack_codes(row.data(), layout.bits, layout.blocks,
               reinterpret_cast<uint8_t*>(bytes.data()) + r * layout.zero_row_bytes);
  }
  return bytes;
}

}  // namespace nibble
