#pragma once
#include "core/tensor.h"
#include "quant/input_stats.h"

// Products with the triangle L of an InputFactor: by blocks, in cache, at about the speed of a GEMM with half the
// multiplications. Columns are in factor order. Serial; a row of the result does not depend on the other rows.
namespace nibble {

// out = D L^T: out[r][i] = sum over c <= i of d[r][c] L[i][c]. Both [rows, inputs.cols], not overlapping.
void times_factor_transposed(const InputFactor& inputs, MatrixView<const float> d, MatrixView<float> out);
// out = E L: out[r][c] = sum over i >= c of e[r][i] L[i][c].
void times_factor(const InputFactor& inputs, MatrixView<const float> e, MatrixView<float> out);

}  // namespace nibble
