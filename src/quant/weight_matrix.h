#pragma once
#include <cstddef>
#include <span>
#include <variant>

#include "core/tensor.h"
#include "quant/int8_matrix.h"
#include "quant/packed_matrix.h"

namespace nibble {

// A float weight in the dtype it is stored in: F32, F16 or BF16, [rows, cols] dense.
struct DenseMatrix {
  DType dtype = DType::kF32;
  size_t rows = 0;
  size_t cols = 0;
  const std::byte* data = nullptr;    // aligned for its dtype
  std::shared_ptr<const void> owner;  // of data: a file mapping or a buffer
};

// The runtime form of one weight.
class WeightMatrix {
 public:
  WeightMatrix() = default;
  // Throws Error(kUnsupported) for any other dtype.
  explicit WeightMatrix(DenseMatrix dense);
  explicit WeightMatrix(PackedMatrix packed) : storage_(std::move(packed)) {}
  explicit WeightMatrix(Int8Matrix matrix) : storage_(std::move(matrix)) {}

  size_t rows() const;
  size_t cols() const;
  size_t bytes() const;  // what a product reads
  const DenseMatrix* dense() const { return std::get_if<DenseMatrix>(&storage_); }
  const PackedMatrix* packed() const { return std::get_if<PackedMatrix>(&storage_); }
  const Int8Matrix* int8() const { return std::get_if<Int8Matrix>(&storage_); }
  // Columns [begin, begin + count) of one row as float.
  void load_row(size_t row, size_t begin, size_t count, float* out) const noexcept;

  ActivationSpec activations;  // how multiply() quantizes x first
  // multiply() rounds x to bf16 and, where it serves its speed, weights that hold more bits; sums stay float.
  // Int8Matrix ignores it.
  bool bf16_products = false;
  bool float_products = false;  // of an Int8Matrix, where its quantized activations cost too much

 private:
  std::variant<DenseMatrix, PackedMatrix, Int8Matrix> storage_;
};

// y[t][r] = sum_c x[t][c] * w[r][c]; x is [tokens, cols], y is [tokens, rows], overwritten, both may be strided.
// Parallel over rows; every y is summed in an order that does not depend on the thread count. Float accumulation
// (Int8Matrix: see there). `bias` is [rows] or null.
void multiply(const WeightMatrix& w, MatrixView<const float> x, const float* bias, MatrixView<float> y);

// One of several products with the same x.
struct Product {
  const WeightMatrix* w;
  const float* bias;    // [rows] or null
  MatrixView<float> y;  // [tokens, rows]
};

// As multiply() for each of them, bit by bit; neighbours that can share the work on x do.
void multiply(std::span<const Product> products, MatrixView<const float> x);

}  // namespace nibble
