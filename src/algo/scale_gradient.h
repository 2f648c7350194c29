#pragma once
#include <span>
#include <vector>

#include "core/tensor.h"
#include "quant/spec.h"

namespace nibble {

// dL/d log s of V = Q(W diag(s)) diag(1/s), [cols], from G = dL/dV, all matrices [rows, cols]. rint counts as the
// identity (the straight-through estimator), but the scale of a group follows its range. With e = G * (W - V) by
// elements and r_j the part of a group's range that column j makes (1 for the largest of a symmetric group, else 0),
//   dL/d log s_j = sum over rows (e_j - r_j sum_{k in group} e_k).
// So it is 0 in the direction in which all columns of a group grow together, which changes nothing; with fixed grids
// every factor would grow. Parallel; does not depend on the thread count.
std::vector<double> scale_gradient(MatrixView<const float> weight, MatrixView<const float> rounded,
                                   MatrixView<const float> gradient, const QuantSpec& spec,
                                   std::span<const float> scales);

}  // namespace nibble
