#pragma once
#include <span>
#include <vector>

#include "quant/input_stats.h"

namespace nibble {

// The asymmetric term of GPTAQ (Li et al. 2025, arXiv 2504.02692). With x the inputs that a linear gets from quantized
// linears before it and x' those of the float model, the outputs to come near to are W x', not W x: part of what the
// difference does can be made up for by columns that are still to be rounded. With D = mean of (x' - x) x^T (`cross`),
// H = L^T L as factored and U = L^-T,
//   P = alpha * triu(D U^T, 1) U,
// strictly upper triangular, columns in the factor's order, and each column k is rounded from w_k + sum_{i<k} w_i P_ik
// with the original weights w. alpha below 1 because D is known from a few tokens only (the paper's code: .25).
//
// cross: [cols, cols] in natural order, row i is (x' - x)_i. Returns (I + P)^T as InputFactor::correction. Needs the
// factor. Parallel; does not depend on the thread count.
std::vector<float> asymmetric_correction(const InputFactor& inputs, std::span<const float> cross, double alpha);

}  // namespace nibble
