#include "algo/code_descent.h"

#include <algorithm>

namespace nibble {

using kernels::kLaneBlock;

CodeDescent::CodeDescent(const LaneContext& context)
    : context_(context), blocks_((context.cols + kLaneBlock - 1) / kLaneBlock * kLaneBlock * kLaneBlock) {
  const size_t n = context.cols;
  // H's diagonals, [kLaneBlock, n]: element c of diagonal d is H[c][c - d]. All that the blocks hold is among them.
  std::vector<float> diagonals(kLaneBlock * n);
  for (size_t i = 0; i < n; ++i) {
    const float* const row = context.inputs.row(i);
    for (size_t d = 0; d < kLaneBlock; ++d) {
      float* const out = &diagonals[d * n];
      for (size_t c = d; c <= i; ++c) out[c] += row[c] * row[c - d];
    }
  }
  for (size_t c = 0; c < n; ++c)
    for (size_t d = 0; d <= c % kLaneBlock; ++d) blocks_[c * kLaneBlock + c % kLaneBlock - d] = diagonals[d * n + c];
}

// With H = L^T L and e = d L^T the gradient is g = e L. The best difference of column k alone is d_k - g_k / H_kk: its
// weight is rounded to w_k + s_k / H_kk, s_k = g_k - d_k H_kk. That is what round_block() does with rows of H for rows
// of L, once the present differences of its own columns are taken out of the sums.
void CodeDescent::sweep(LaneRows& rows) const {
  const size_t n = context_.cols;
  const float* block = blocks_.data();
  float sums[kLaneBlock * kRowLanes], moves[kLaneBlock * kRowLanes];
  for (size_t at = 0; at < n; at += kLaneBlock, block += kLaneBlock * kLaneBlock) {
    const size_t count = std::min(kLaneBlock, n - at), behind = at + count;
    const float* const tail = behind < n ? context_.inputs.row(behind) + at : nullptr;  // rows that have all columns
    float* const residual = rows.residual.data() + at * kRowLanes;
    float* const x = rows.x.data() + at * kRowLanes;
    const float* of_block[kLaneBlock];
    std::fill_n(sums, count * kRowLanes, 0.0f);
    if (tail != nullptr) context_.kernels.gather(tail, behind, n - behind, residual + count * kRowLanes, sums);
    for (size_t k = 0; k < count; ++k) {
      of_block[k] = block + k * kLaneBlock;
      float* const sum = sums + k * kRowLanes;
      for (size_t i = k; i < count; ++i) {
        const float factor = context_.inputs.row(at + i)[at + k];
        for (size_t lane = 0; lane < kRowLanes; ++lane) sum[lane] += factor * residual[i * kRowLanes + lane];
      }
      for (size_t j = 0; j <= k; ++j)
        for (size_t lane = 0; lane < kRowLanes; ++lane) sum[lane] -= of_block[k][j] * x[j * kRowLanes + lane];
    }
    for (size_t k = 0; k < count; ++k)
      for (size_t lane = 0; lane < kRowLanes; ++lane) {
        moves[k * kRowLanes + lane] = -x[k * kRowLanes + lane];
        if (!context_.dead[at + k]) x[k * kRowLanes + lane] += rows.value_at(context_, at + k, lane);
      }
    rows.round_block(context_, at, count, of_block, 0, sums);
    for (size_t k = 0; k < count * kRowLanes; ++k) moves[k] += x[k];
    for (size_t k = 0; k < count; ++k)
      for (size_t i = k; i < count; ++i) {
        const float factor = context_.inputs.row(at + i)[at + k];
        for (size_t lane = 0; lane < kRowLanes; ++lane)
          residual[i * kRowLanes + lane] += factor * moves[k * kRowLanes + lane];
      }
    if (tail != nullptr) context_.kernels.spread(tail, behind, n - behind, moves, residual + count * kRowLanes);
  }
}

}  // namespace nibble
