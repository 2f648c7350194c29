#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "kernels/int8.h"
#include "quant/packed_matrix.h"

namespace nibble {

// A packed integer weight in the order that the int8 kernels read (kernels/int8.h): compute level int8. As many bits
// for each code as before; scales and mins as F16 or BF16 where that loses nothing, else F32. Rows are padded to 16,
// columns to 32. Copies share the memory.
class Int8Matrix {
 public:
  // Integer grids, groups that are a multiple of 16 columns or the whole row, in the order of the columns.
  static bool accepts(const PackedMatrix& packed);
  // `packed` must be accepted. Parallel.
  explicit Int8Matrix(const PackedMatrix& packed);

  const QuantSpec& spec() const { return spec_; }
  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t bytes() const;  // in memory
  // As PackedMatrix: the same values, bit by bit.
  void load_row(size_t row, size_t begin, size_t count, float* out) const noexcept;
  kernels::Int8Tile tile(size_t index) const;  // rows [16 index, 16 index + 16)
  size_t tiles() const { return tiles_; }
  size_t blocks() const { return blocks_; }
  size_t groups() const { return groups_; }
  size_t group() const { return group_; }

 private:
  QuantSpec spec_;
  size_t rows_ = 0, cols_ = 0;
  size_t tiles_ = 0, blocks_ = 0, group_ = 0, groups_ = 0;  // blocks and groups of a row, padding included
  int bits_ = 0;                                            // as Int8Tile has it
  DType scale_dtype_ = DType::kF32;
  // One block of memory. A tile is contiguous, its parts begin at multiples of 64: scales [groups, 16] of scale_dtype_,
  // then mins of the same or zeros [groups, 16], where there are any, then codes [blocks, packed block], so that a
  // kernel that looks ahead of its codes sees the next tile's scales.
  std::shared_ptr<uint8_t> memory_;
  size_t tile_bytes_ = 0, mins_at_ = 0, zeros_at_ = 0, codes_at_ = 0;  // mins_at_, zeros_at_: 0 where there are none
};

// One of several weights that meet the same activations: q, k and v, or gate and up.
struct Int8Product {
  const Int8Matrix* w;
  const float* bias;    // [rows] or null
  MatrixView<float> y;  // [tokens, rows], overwritten
};

// May products with a and b be computed in one call?
inline bool share_activations(const Int8Matrix& a, const Int8Matrix& b) {
  return a.cols() == b.cols() && a.group() == b.group();
}

// y = x w^T + bias for each product, where all weights share their activations and there is at least one: x [tokens,
// cols], but for its outliers (kernels/int8_outliers.h), is quantized to int8 in groups of 32 columns once, and all
// weights are multiplied in one parallel region. The sums of a row are formed in an order that depends on neither
// threads, the number of tokens nor the other products. After its first call of a size a thread allocates nothing.
void multiply(std::span<const Int8Product> products, MatrixView<const float> x);
void multiply(const Int8Matrix& w, MatrixView<const float> x, const float* bias, MatrixView<float> y);

}  // namespace nibble
