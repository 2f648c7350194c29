#pragma once
#include <algorithm>
#include <cstddef>

#include "core/tensor.h"

namespace nibble::kernels {

// One tile of a product, by a kernel that always writes tile_rows columns:
//   tile(x, x_stride, panel, depth, acc, acc_stride, tokens, add)
// A tile that hangs over the last row goes through `edge`, [out.rows, tile_rows].
template <class Tile, class Element>
void multiply_tile(Tile tile, size_t tile_rows, const Element* x, size_t x_stride, const Element* panel, size_t depth,
                   bool add, float* edge, MatrixView<float> out) {
  if (out.cols == tile_rows) {
    tile(x, x_stride, panel, depth, out.data, out.stride, out.rows, add);
    return;
  }
  if (add) {
    std::fill_n(edge, out.rows * tile_rows, 0.0f);
    for (size_t t = 0; t < out.rows; ++t) std::copy_n(out.row(t), out.cols, edge + t * tile_rows);
  }
  tile(x, x_stride, panel, depth, edge, tile_rows, out.rows, add);
  for (size_t t = 0; t < out.rows; ++t) std::copy_n(edge + t * tile_rows, out.cols, out.row(t));
}

}  // namespace nibble::kernels
