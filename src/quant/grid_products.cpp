#include "quant/grid_products.h"

#include <algorithm>
#include <vector>

#include "kernels/grid_rows.h"

namespace nibble {

bool accepts_grid_products(const PackedMatrix& w) {
  if (w.spec.grid == Grid::kInt || !w.group_of.empty() || w.cols == 0) return false;
  return w.spec.grid == Grid::kFP8 || kernels::accepts_level_group(w.spec.group_size(w.cols), w.cols);
}

MatrixView<const float> arrange_for_grid(const PackedMatrix& w, MatrixView<const float> x) {
  if (w.spec.grid == Grid::kFP8) return x;
  static thread_local std::vector<float> storage;
  const size_t size = kernels::arranged_size(x.cols);
  if (storage.size() < x.rows * size) storage.resize(x.rows * size);
  for (size_t t = 0; t < x.rows; ++t) kernels::active_grids().arrange(x.row(t), x.cols, storage.data() + t * size);
  return matrix<const float>(storage.data(), x.rows, size);
}

void grid_products(const PackedMatrix& w, MatrixView<const float> x, MatrixView<float> y, size_t begin,
                   size_t end) noexcept {
  const kernels::GridTable& kernel = kernels::active_grids();
  const size_t scale_stride = w.spec.per_tensor ? 0 : w.groups();
  for (size_t t = 0; t < x.rows; t += kernels::kFewTokens) {
    const kernels::GridRows rows = {.codes = w.codes + begin * w.row_stride,
                                    .stride = w.row_stride,
                                    .rows = end - begin,
                                    .cols = w.cols,
                                    .scales = w.scales.data() + begin * scale_stride,
                                    .scale_stride = scale_stride,
                                    .group = w.spec.group_size(w.cols),
                                    .x = x.row(t),
                                    .tokens = std::min(kernels::kFewTokens, x.rows - t),
                                    .x_stride = x.stride,
                                    .y = y.row(t) + begin,
                                    .y_stride = y.stride};
    if (w.spec.grid == Grid::kFP8)
      kernel.fp8(rows);
    else
      kernel.levels(rows, grid_levels(w.spec.grid).data());
  }
}

}  // namespace nibble
