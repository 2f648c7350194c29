#include "quant/output_error.h"

#include <algorithm>
#include <vector>

#include "quant/lane_products.h"

namespace nibble {

using kernels::kRowLanes;

double output_error(const InputFactor& inputs, MatrixView<const float> difference) {
  if (inputs.factor.empty()) return 0;
  std::vector<float> d(inputs.cols * kRowLanes), outputs(d.size());
  double sum = 0;
  for (size_t first = 0; first < difference.rows; first += kRowLanes) {
    const size_t count = std::min(kRowLanes, difference.rows - first);
    if (count < kRowLanes) std::fill(d.begin(), d.end(), 0.0f);
    for (size_t lane = 0; lane < count; ++lane) {
      const float* const row = difference.row(first + lane);
      for (size_t i = 0; i < inputs.cols; ++i) {
        const uint32_t column = inputs.order[i];
        d[i * kRowLanes + lane] = inputs.importance[column] == 0 ? 0.0f : row[column];  // dead: no output
      }
    }
    multiply_lanes(inputs, d.data(), outputs.data());
    // Floats of one column are added in float before they go to the double.
    for (size_t i = 0; i < inputs.cols; ++i) {
      float square = 0, weight = 0;
      for (size_t k = i * kRowLanes; k < (i + 1) * kRowLanes; ++k)
        square += outputs[k] * outputs[k], weight += d[k] * d[k];
      sum += double{square} - inputs.damp * double{weight};
    }
  }
  return std::max(0.0, sum);
}

}  // namespace nibble
