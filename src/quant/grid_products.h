#pragma once
#include <cstddef>

#include "core/tensor.h"
#include "quant/packed_matrix.h"

namespace nibble {

// Few tokens times a packed matrix of a table grid (NF4, FP4, IQ4_NL, FP8), straight from its codes.
bool accepts_grid_products(const PackedMatrix& w);
// x as grid_products takes it; a view of x itself or of storage of this thread that the next call overwrites.
MatrixView<const float> arrange_for_grid(const PackedMatrix& w, MatrixView<const float> x);
// y[t][r] = sum_c x[t][c] * w[r][c] for rows [begin, end) and any number of tokens; x from arrange_for_grid.
void grid_products(const PackedMatrix& w, MatrixView<const float> x, MatrixView<float> y, size_t begin,
                   size_t end) noexcept;

}  // namespace nibble
