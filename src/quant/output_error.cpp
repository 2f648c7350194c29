#include "quant/output_error.h"

#include <algorithm>
#include <vector>

#include "kernels/kernels.h"

namespace nibble {

double output_error(const InputFactor& inputs, MatrixView<const float> difference) {
  if (inputs.factor.empty()) return 0;
  const kernels::Table& table = kernels::active();
  std::vector<float> ordered(inputs.cols);
  double outputs = 0, weights = 0;
  for (size_t r = 0; r < difference.rows; ++r) {
    for (size_t i = 0; i < inputs.cols; ++i) ordered[i] = difference.row(r)[inputs.order[i]];
    for (size_t i = 0; i < inputs.cols; ++i) {
      const double component = static_cast<double>(table.dot_f32(inputs.row(i), ordered.data(), i + 1));
      outputs += component * component;
      weights += static_cast<double>(ordered[i]) * static_cast<double>(ordered[i]);
    }
  }
  return std::max(0.0, outputs - inputs.damp * weights);
}

}  // namespace nibble
