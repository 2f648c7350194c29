#pragma once
#include "kernels/lanes.h"
#include "quant/input_stats.h"

namespace nibble {

// out = d L^T for kernels::kRowLanes rows d side by side: d, out are [cols, kRowLanes], columns in the factor's order.
void multiply_lanes(const InputFactor& inputs, const float* d, float* out);
// The same with any lower triangle of `cols` columns, packed by rows.
void multiply_lanes(const float* triangle, size_t cols, const float* d, float* out);

}  // namespace nibble
