#include "quant/asymmetric_correction.h"

#include <algorithm>
#include <cassert>

#include "core/checked.h"
#include "core/threads.h"
#include "kernels/kernels.h"
#include "kernels/lanes.h"

namespace nibble {
namespace {

using kernels::kLaneBlock;
using kernels::kRowLanes;

// y L = d for kRowLanes rows side by side, [cols, kRowLanes], in place, from the last column on.
void solve_factor(const InputFactor& inputs, const kernels::LaneTable& table, float* d) {
  const size_t n = inputs.cols;
  float sums[kLaneBlock * kRowLanes];
  for (size_t block = ceil_div(n, kLaneBlock); block-- > 0;) {
    const size_t at = block * kLaneBlock, count = std::min(kLaneBlock, n - at), behind = at + count;
    std::fill_n(sums, kLaneBlock * kRowLanes, 0.0f);
    if (behind < n) table.gather(inputs.row(behind) + at, behind, n - behind, d + behind * kRowLanes, sums);
    for (size_t k = count; k-- > 0;) {
      float* const y = d + (at + k) * kRowLanes;
      const float diagonal = inputs.row(at + k)[at + k];
      for (size_t lane = 0; lane < kRowLanes; ++lane) {
        float sum = sums[k * kRowLanes + lane];
        for (size_t i = k + 1; i < count; ++i) sum += inputs.row(at + i)[at + k] * d[(at + i) * kRowLanes + lane];
        y[lane] = (y[lane] - sum) / diagonal;
      }
    }
  }
}

// z L^T = t likewise, from the first column on.
void solve_transposed(const InputFactor& inputs, const kernels::LaneTable& table, float* t) {
  float sums[kLaneBlock * kRowLanes];
  for (size_t at = 0; at < inputs.cols; at += kLaneBlock) {
    const size_t count = std::min(kLaneBlock, inputs.cols - at);
    const float* rows[kLaneBlock];
    for (size_t i = 0; i < count; ++i) rows[i] = inputs.row(at + i);
    table.products(rows, count, t, at, sums);
    for (size_t k = 0; k < count; ++k) {
      float* const z = t + (at + k) * kRowLanes;
      for (size_t lane = 0; lane < kRowLanes; ++lane) {
        float sum = sums[k * kRowLanes + lane];
        for (size_t j = 0; j < k; ++j) sum += rows[k][at + j] * t[(at + j) * kRowLanes + lane];
        z[lane] = (z[lane] - sum) / rows[k][at + k];
      }
    }
  }
}

}  // namespace

std::vector<float> asymmetric_correction(const InputFactor& inputs, std::span<const float> cross, double alpha) {
  const size_t n = inputs.cols;
  assert(!inputs.factor.empty() && cross.size() == n * n);
  const kernels::LaneTable& table = kernels::lane_table(kernels::active());
  std::vector<float> correction(n * (n + 1) / 2);
  for (size_t i = 0; i < n; ++i) correction[i * (i + 3) / 2] = 1.0f;
  const auto scale = static_cast<float>(alpha);
  parallel_for(ceil_div(n, kRowLanes), 1, [&](size_t begin, size_t end) {
    std::vector<float> d(n * kRowLanes);
    for (size_t block = begin; block < end; ++block) {
      const size_t first = block * kRowLanes, count = std::min(kRowLanes, n - first);
      std::fill(d.begin(), d.end(), 0.0f);
      for (size_t lane = 0; lane < count; ++lane) {
        const uint32_t row = inputs.order[first + lane];
        if (inputs.importance[row] == 0) continue;  // dead: its weights count as 0
        for (size_t i = 0; i < n; ++i) d[i * kRowLanes + lane] = cross[row * n + inputs.order[i]];
      }
      solve_factor(inputs, table, d.data());
      for (size_t i = 0; i < std::min(n, first + count); ++i)  // triu(., 1)
        for (size_t lane = i > first ? i - first : 0; lane < count; ++lane) d[i * kRowLanes + lane] = 0;
      solve_transposed(inputs, table, d.data());
      for (size_t lane = 0; lane < count; ++lane)
        for (size_t k = first + lane + 1; k < n; ++k)
          correction[k * (k + 1) / 2 + first + lane] = scale * d[k * kRowLanes + lane];
    }
  });
  return correction;
}

}  // namespace nibble
