#include "quant/factor_products.h"

#include <algorithm>
#include <cassert>
#include <vector>

#include "kernels/kernels.h"

namespace nibble {
namespace {

constexpr size_t kDepth = 384;  // of a panel: few enough that it stays in the second-level cache

// out = x P, P given by panels of tile_rows columns: pack(k, depth, column, width, panel) writes rows [k, k + depth) of
// columns [column, column + width) to a zeroed panel. range(column, width) = the rows of P that are not all zero there.
template <class Range, class Pack>
void multiply(MatrixView<const float> x, MatrixView<float> out, const Range& range, const Pack& pack) {
  assert(x.rows == out.rows);
  const kernels::Table& table = kernels::active();
  const size_t tile_rows = table.tile_rows;
  std::vector<float> panel(kDepth * tile_rows), edge(table.tile_tokens * tile_rows);
  for (size_t column = 0; column < out.cols; column += tile_rows) {
    const size_t width = std::min(tile_rows, out.cols - column);
    const auto [first, last] = range(column, width);
    for (size_t k = first; k < last; k += kDepth) {
      const size_t depth = std::min(kDepth, last - k);
      std::fill_n(panel.data(), depth * tile_rows, 0.0f);
      pack(k, depth, column, width, panel.data(), tile_rows);
      for (size_t r = 0; r < x.rows; r += table.tile_tokens) {
        const size_t rows = std::min(table.tile_tokens, x.rows - r);
        if (width == tile_rows) {
          table.gemm_tile(x.row(r) + k, x.stride, panel.data(), depth, out.row(r) + column, out.stride, rows,
                          k > first);
          continue;
        }
        table.gemm_tile(x.row(r) + k, x.stride, panel.data(), depth, edge.data(), tile_rows, rows, false);
        for (size_t t = 0; t < rows; ++t)
          for (size_t c = 0; c < width; ++c) {
            float& sum = out.row(r + t)[column + c];
            sum = k > first ? sum + edge[t * tile_rows + c] : edge[t * tile_rows + c];
          }
      }
    }
  }
}

}  // namespace

void times_factor_transposed(const InputFactor& inputs, MatrixView<const float> d, MatrixView<float> out) {
  multiply(
      d, out, [](size_t column, size_t width) { return std::pair(size_t{0}, column + width); },
      [&](size_t k, size_t depth, size_t column, size_t width, float* panel, size_t stride) {
        for (size_t c = 0; c < width; ++c) {
          const float* const row = inputs.row(column + c);
          for (size_t i = k; i < std::min(k + depth, column + c + 1); ++i) panel[(i - k) * stride + c] = row[i];
        }
      });
}

void times_factor(const InputFactor& inputs, MatrixView<const float> e, MatrixView<float> out) {
  multiply(
      e, out, [&](size_t column, size_t) { return std::pair(column, inputs.cols); },
      [&](size_t k, size_t depth, size_t column, size_t width, float* panel, size_t stride) {
        for (size_t i = 0; i < depth; ++i)
          std::copy_n(inputs.row(k + i) + column, std::min(width, k + i + 1 - column), panel + i * stride);
      });
}

}  // namespace nibble
