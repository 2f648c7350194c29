#pragma once
#include "core/tensor.h"
#include "quant/input_stats.h"

namespace nibble {

// tr(D H D^T): the mean over the calibration tokens of the squared output of rows `difference` ([rows, cols], columns
// in natural order), without the damping that `inputs` has in its factor; see InputFactor. Columns without input count
// for nothing. 0 when there is no factor. Serial; never negative.
double output_error(const InputFactor& inputs, MatrixView<const float> difference);

}  // namespace nibble
