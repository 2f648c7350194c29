#include "algo/equalize.h"

#include <algorithm>

#include "quant/factor_products.h"

namespace nibble {

std::vector<float> scaled_rounding(MatrixView<const float> weight, const QuantSpec& spec, const Algorithm& rounding,
                                   std::span<const float> mean_square, std::span<const float> scales) {
  std::vector<float> values(weight.rows * weight.cols);
  for (size_t r = 0; r < weight.rows; ++r)
    for (size_t c = 0; c < weight.cols; ++c) values[r * weight.cols + c] = weight.row(r)[c] * scales[c];
  InputFactor inputs;
  inputs.cols = weight.cols;
  for (size_t c = 0; c < weight.cols; ++c) inputs.importance.push_back(mean_square[c] / (scales[c] * scales[c]));
  QuantSpec grid = spec;
  grid.mins = false;  // grids with zero points lie as close
  const auto [lo, hi] = std::minmax_element(values.begin(), values.end());
  const std::pair<float, float> range = values.empty() ? std::pair(0.0f, 0.0f) : std::pair(*lo, *hi);
  const MatrixView<float> view = matrix(values.data(), weight.rows, weight.cols);
  dequantize(rounding.quantize({view, grid, range, &inputs}), view);
  for (size_t r = 0; r < weight.rows; ++r)
    for (size_t c = 0; c < weight.cols; ++c)
      values[r * weight.cols + c] = values[r * weight.cols + c] / scales[c] - weight.row(r)[c];
  return values;
}

double input_error(const EqualizerInput& input, MatrixView<const float> difference) {
  double error = 0;
  if (input.inputs == nullptr || input.inputs->factor.empty()) {
    for (size_t r = 0; r < difference.rows; ++r)
      for (size_t c = 0; c < difference.cols; ++c)
        error += double{input.stats.mean_square[c]} * double{difference.row(r)[c]} * double{difference.row(r)[c]};
    return error;
  }
  std::vector<float> outputs(difference.rows * difference.cols);
  times_factor_transposed(*input.inputs, difference, matrix(outputs.data(), difference.rows, difference.cols));
  double damped = 0;
  for (size_t r = 0; r < difference.rows; ++r)
    for (size_t c = 0; c < difference.cols; ++c) {
      const double output = double{outputs[r * difference.cols + c]}, d = double{difference.row(r)[c]};
      error += output * output;
      damped += d * d;
    }
  return std::max(0.0, error - input.inputs->damp * damped);
}

}  // namespace nibble
