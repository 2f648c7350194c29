#include "algo/equalize.h"

#include <algorithm>

#include "quant/output_error.h"

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
  if (input.inputs != nullptr && !input.inputs->factor.empty()) return output_error(*input.inputs, difference);
  double error = 0;
  for (size_t r = 0; r < difference.rows; ++r)
    for (size_t c = 0; c < difference.cols; ++c)
      error += double{input.stats.mean_square[c]} * double{difference.row(r)[c]} * double{difference.row(r)[c]};
  return error;
}

double weight_error(const EqualizerInput& input, const Algorithm& rounding, size_t rows,
                    std::span<const float> scales) {
  double error = 0;
  for (size_t i = 0; i < input.weights.size(); ++i) {
    MatrixView<const float> w = input.weights[i];
    const size_t step = std::max<size_t>(1, w.rows / rows);
    w = {w.data, w.rows / step, w.cols, w.stride * step};
    const std::vector<float> difference = scaled_rounding(w, input.specs[i], rounding, input.stats.mean_square, scales);
    error += static_cast<double>(step) * input_error(input, matrix(difference.data(), w.rows, w.cols));
  }
  return error;
}

}  // namespace nibble
