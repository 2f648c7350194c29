#include "quant/lane_products.h"

#include <algorithm>

#include "kernels/kernels.h"

namespace nibble {

using kernels::kLaneBlock;
using kernels::kRowLanes;

void multiply_lanes(const InputFactor& inputs, const float* d, float* out) {
  multiply_lanes(inputs.factor.data(), inputs.cols, d, out);
}

void multiply_lanes(const float* triangle, size_t cols, const float* d, float* out) {
  const kernels::LaneTable& table = kernels::lane_table(kernels::active());
  for (size_t at = 0; at < cols; at += kLaneBlock) {
    const size_t count = std::min(kLaneBlock, cols - at);
    const float* rows[kLaneBlock];
    for (size_t i = 0; i < count; ++i) rows[i] = triangle + (at + i) * (at + i + 1) / 2;
    float* const sums = out + at * kRowLanes;
    table.products(rows, count, d, at, sums);
    for (size_t i = 0; i < count; ++i)  // the corner of the triangle
      for (size_t j = 0; j <= i; ++j)
        for (size_t lane = 0; lane < kRowLanes; ++lane)
          sums[i * kRowLanes + lane] += rows[i][at + j] * d[(at + j) * kRowLanes + lane];
  }
}

}  // namespace nibble
