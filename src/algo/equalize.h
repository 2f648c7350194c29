#pragma once
#include <span>
#include <vector>

#include "algo/algorithm.h"

// What equalizers measure: the damage that rounding does to W diag(s).
namespace nibble {

// Q(W diag(s)) diag(1/s) - W, [rows, cols]; Q is `rounding` to spec's grid, which knows the mean squares of the scaled
// inputs.
std::vector<float> scaled_rounding(MatrixView<const float> weight, const QuantSpec& spec, const Algorithm& rounding,
                                   std::span<const float> mean_square, std::span<const float> scales);

// tr(D H D^T) of D, [rows, cols]; with the diagonal of H alone where there is no factor.
double input_error(const EqualizerInput& input, MatrixView<const float> difference);

// The sum over the linears of tr(D H D^T), D = scaled_rounding(), on about `rows` evenly spaced rows of each.
double weight_error(const EqualizerInput& input, const Algorithm& rounding, size_t rows, std::span<const float> scales);

}  // namespace nibble
