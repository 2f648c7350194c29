#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nibble {

// What calibration saw of the inputs x of linears that read the same activations. Means over all tokens.
struct InputStats {
  size_t cols = 0;
  size_t tokens = 0;
  // H = mean of x x^T: its lower triangle by rows, element (r, c <= r) at r (r + 1) / 2 + c. Empty: not collected.
  std::vector<double> gram;
  // [cols, cols], mean of (x' - x) x^T: x' is the input of the same linear in the float model, x the one that it has
  // behind quantized linears. Empty: not collected.
  std::vector<float> cross;
  std::vector<float> mean_square;  // [cols], the diagonal of H
  std::vector<float> mean_abs;     // [cols]
  std::vector<float> max_abs;      // [cols]
};

// In which order the columns of a linear are rounded.
enum class ColumnOrder : uint8_t {
  kNatural,
  kActOrder,    // by falling mean square of the input
  kGroupAware,  // groups by their largest mean square, columns within a group by theirs: groups stay together
};

struct FactorOptions {
  ColumnOrder order = ColumnOrder::kNatural;
  size_t group = 0;        // columns of a group, kGroupAware only; 0: all
  double percdamp = 0.01;  // added to the diagonal, as a fraction of its mean
  double alpha = 0;        // of InputFactor::correction; 0: none
  friend bool operator==(const FactorOptions&, const FactorOptions&) = default;
};

// H of one input, ready for rounding: P (H + damp I) P^T = L^T L with L lower triangular, P the column order.
//
// With D the difference of two weights, columns in that order, the squared error of the outputs is
//   tr(D H D^T) = |D L^T|^2 - damp |D|^2,
// and component i of a row's D L^T involves columns 0..i alone: the triangular form that GPTQ solves greedily, as
// Babai's nearest plane (Chen et al. 2025, arXiv 2507.18553).
struct InputFactor {
  size_t cols = 0;
  std::vector<uint32_t> order;  // [cols]; order[i] is the column at position i
  std::vector<float> factor;    // L by rows, packed as InputStats::gram; empty when there was no Gram matrix
  // (I + P)^T, packed as the factor, columns in the same order: W (I + P) rather than W is what rounding should come
  // near to, so that the outputs are those of the float model; see asymmetric_correction.h. Empty: none.
  std::vector<float> correction;
  std::vector<float> importance;  // [cols], by column: the diagonal of H without damping; 0 where no input ever was
  double damp = 0;                // what was added to the diagonal
  double percdamp = 0;  // the same as a fraction of the diagonal's mean: more than asked for where H needed it

  const float* row(size_t i) const { return factor.data() + i * (i + 1) / 2; }
};

// Factors in place, in double. Columns without input (dead: H_jj = 0) get a diagonal of 1. Where H is not positive
// definite to rounding the damping rises in steps of .01 of the mean up to 1, then the factor stays empty: nothing but
// `importance` is known. Does not depend on the thread count.
InputFactor factor_inputs(InputStats&& stats, const FactorOptions& options);

}  // namespace nibble
