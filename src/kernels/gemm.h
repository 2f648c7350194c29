#pragma once
#include <cstddef>

#include "core/tensor.h"

namespace nibble::kernels {

struct Table;

// Gives parts of the rows of a weight as float, whatever its storage.
struct RowLoader {
  const void* self;
  // Columns [begin, begin + count) of one row.
  void (*load)(const void* self, size_t row, size_t begin, size_t count, float* out) noexcept;
};

// y[t][r] = bias[r] + sum_c x[t][c] * w[r][c] for r < y.cols; x is [tokens, depth], y is [tokens, rows]. `bias` may be
// null. Each weight element is loaded once per call, so that dequantizing is paid once for all tokens. Parallel over
// rows; every sum's order depends only on the shapes and the table. Allocates its scratch once per thread.
void gemm(MatrixView<const float> x, const RowLoader& w, const float* bias, MatrixView<float> y);
// The same with the kernels of a given table: for tests and benchmarks.
void gemm(const Table& table, MatrixView<const float> x, const RowLoader& w, const float* bias, MatrixView<float> y);

}  // namespace nibble::kernels
