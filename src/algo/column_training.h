#pragma once
#include <vector>

#include "algo/equalize.h"

// Factors of input columns by gradient descent, for linears whose surroundings nobody differentiates.
namespace nibble {

// input_error() of `difference`, [rows, cols], and its derivative, 2 D H, in `gradient` of the same shape. Parallel;
// does not depend on the thread count.
double input_error_gradient(const EqualizerInput& input, MatrixView<const float> difference,
                            MatrixView<float> gradient);

struct ColumnTraining {
  size_t iters;
  double rate;  // of the first step of Adam, on logarithms; falls to 0 in a straight line
  size_t rows;  // of each linear, evenly spaced, that are trained on
};

// Factors s, [cols], of low weight_error() with round to nearest, from 1 on: scale_gradient() of what
// input_error_gradient() says. Those of the least error of all steps; 1 where they are no better on all rows of
// `input`.
std::vector<float> train_columns(const EqualizerInput& input, const ColumnTraining& options);

}  // namespace nibble
