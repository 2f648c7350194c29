#pragma once
#include <vector>

#include "algo/algorithm.h"
#include "kernels/lanes.h"

namespace nibble {

using kernels::kRowLanes;

// What the rows of one linear share while they are rounded. Positions are those of InputFactor::order.
struct LaneContext {
  LaneContext(const Rounding& rounding, const QuantizedMatrix& grid);

  const Rounding& rounding;
  const InputFactor& inputs;
  size_t cols, groups;
  std::vector<uint32_t> group_at;  // [cols], the group of the column at each position
  std::vector<bool> dead;          // [cols], by position: no input ever
  bool integer;                    // LaneTable::round knows the grid
  const kernels::LaneTable& kernels;
};

// kRowLanes rows, side by side, columns by position: a column's lanes are contiguous. Rows past the last are zero.
//
// Rounding is Babai's nearest plane on L (InputFactor): with the differences d_j = w_j - q_j of the columns before,
// column i is rounded from w_i + (sum_{j<i} d_j L_ij) / L_ii. That is GPTQ without an inverse (Chen et al. 2025, arXiv
// 2507.18553), and component i of d L^T, the residual, falls out of it.
struct LaneRows {
  // With the codes and grids of q. Differences, residuals and errors are of these.
  LaneRows(const LaneContext& context, const QuantizedMatrix& q, size_t first);

  size_t first, count;              // rows of the slice
  std::vector<float> x;             // [cols, kRowLanes]: weights; from round_columns() on differences w - q
  std::vector<float> residual;      // [cols, kRowLanes]: d L^T
  std::vector<uint8_t> codes;       // [cols, kRowLanes]
  std::vector<float> scale;         // [groups, kRowLanes]; value = scale * (code - zero) + offset
  std::vector<float> zero, offset;  // [groups, kRowLanes]; offset is spec.mins' min
  std::vector<double> error;        // [kRowLanes]: d H d^T

  void load_weights(const LaneContext& context);
  float value_at(const LaneContext& context, size_t i, size_t lane) const;  // of the code at position i
  // Positions [begin, end), those before are done.
  void round_columns(const LaneContext& context, size_t begin, size_t end);
  // Rounds x at positions `at`.. to x + sums / diagonal, one after the other: rows[i], up to its diagonal at
  // first_column + i, says what the difference of one adds to the sums of the later ones. kLaneBlock columns at most;
  // sums are [columns, kRowLanes] and become those with all differences.
  void round_block(const LaneContext& context, size_t at, size_t columns, const float* const* rows, size_t first_column,
                   float* sums);
  // [end - begin, kRowLanes]: the weights at these positions as the error of those before has moved them, for the least
  // error if nothing more were rounded. Positions before `begin` are done, later ones are not.
  std::vector<float> compensated(const LaneContext& context, size_t begin, size_t end) const;
  // Differences and residuals of the present codes and grids.
  void measure(const LaneContext& context);
  // Sets `error` from differences and residuals.
  void sum_errors(const LaneContext& context);
  // One lane's codes and grids to its row of `q`.
  void store(const LaneContext& context, size_t lane, QuantizedMatrix& q) const;
};

}  // namespace nibble
