#include "algo/column_training.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "algo/adam.h"
#include "algo/scale_gradient.h"
#include "core/interrupt.h"
#include "core/threads.h"
#include "quant/lane_products.h"

namespace nibble {
namespace {

using kernels::kRowLanes;

constexpr double kLeast = 1e-5;  // factors stay in [kLeast, 1 / kLeast]

// kRowLanes rows, or less, side by side: 2 (d L^T L - damp d).
double lane_gradient(const InputFactor& inputs, MatrixView<const float> rows, MatrixView<float> gradient) {
  std::vector<float> d(inputs.cols * kRowLanes), outputs(d.size()), sums(d.size());
  for (size_t r = 0; r < rows.rows; ++r)
    for (size_t i = 0; i < inputs.cols; ++i) {
      const uint32_t column = inputs.order[i];
      d[i * kRowLanes + r] = inputs.importance[column] == 0 ? 0.0f : rows.row(r)[column];  // dead: no output
    }
  multiply_lanes(inputs, d.data(), outputs.data());
  double error = 0;
  for (size_t i = 0; i < inputs.cols; ++i) {
    const float* const factor = inputs.row(i);
    const float* const output = outputs.data() + i * kRowLanes;
    for (size_t c = 0; c <= i; ++c)
      for (size_t k = 0; k < kRowLanes; ++k) sums[c * kRowLanes + k] += factor[c] * output[k];
    float square = 0, weight = 0;
    for (size_t k = 0; k < kRowLanes; ++k)
      square += output[k] * output[k], weight += d[i * kRowLanes + k] * d[i * kRowLanes + k];
    error += double{square} - inputs.damp * double{weight};
  }
  const auto damp = static_cast<float>(inputs.damp);
  for (size_t r = 0; r < rows.rows; ++r)
    for (size_t i = 0; i < inputs.cols; ++i) {
      const uint32_t column = inputs.order[i];
      const size_t at = i * kRowLanes + r;
      gradient.row(r)[column] = inputs.importance[column] == 0 ? 0.0f : 2 * (sums[at] - damp * d[at]);
    }
  return error;
}

class Columns {
 public:
  Columns(const EqualizerInput& input, size_t rows) : input_(input), rtn_(make_algorithm("rtn", {})) {
    for (MatrixView<const float> w : input.weights) {
      steps_.push_back(std::max<size_t>(1, w.rows / std::max<size_t>(rows, 1)));
      weights_.push_back({w.data, w.rows / steps_.back(), w.cols, w.stride * steps_.back()});
    }
  }

  // The error with factors `scales`, and its derivative by their logarithms.
  double error(std::span<const float> scales, std::vector<double>& gradient) const {
    check_interrupted();
    std::fill(gradient.begin(), gradient.end(), 0.0);
    double error = 0;
    for (size_t l = 0; l < weights_.size(); ++l) {
      const MatrixView<const float> w = weights_[l];
      std::vector<float> difference = rounding(w, input_.specs[l], scales), by_weight(difference.size());
      const auto step = static_cast<double>(steps_[l]);
      error += step * input_error_gradient(input_, matrix<const float>(difference.data(), w.rows, w.cols),
                                           matrix(by_weight.data(), w.rows, w.cols));
      for (size_t r = 0; r < w.rows; ++r)  // now what rounding makes of w
        for (size_t c = 0; c < w.cols; ++c) difference[r * w.cols + c] += w.row(r)[c];
      const std::vector<double> sums =
          scale_gradient(w, matrix<const float>(difference.data(), w.rows, w.cols),
                         matrix<const float>(by_weight.data(), w.rows, w.cols), input_.specs[l], scales);
      for (size_t c = 0; c < sums.size(); ++c) gradient[c] += step * sums[c];
    }
    return error;
  }

  // Are the factors better than none on all rows?
  bool better(const std::vector<float>& scales) const {
    const std::vector<float> ones(scales.size(), 1.0f);
    constexpr size_t kAll = std::numeric_limits<size_t>::max();
    return weight_error(input_, *rtn_, kAll, scales) < weight_error(input_, *rtn_, kAll, ones);
  }

 private:
  // scaled_rounding(), in parallel.
  std::vector<float> rounding(MatrixView<const float> w, const QuantSpec& spec, std::span<const float> scales) const {
    std::vector<float> all(w.rows * w.cols);
    parallel_for(w.rows, spec.per_tensor ? std::max<size_t>(w.rows, 1) : kRowLanes, [&](size_t begin, size_t end) {
      const MatrixView<const float> rows{w.row(begin), end - begin, w.cols, w.stride};
      const std::vector<float> part = scaled_rounding(rows, spec, *rtn_, input_.stats.mean_square, scales);
      std::copy(part.begin(), part.end(), all.begin() + static_cast<std::ptrdiff_t>(begin * w.cols));
    });
    return all;
  }

  const EqualizerInput& input_;
  std::unique_ptr<Algorithm> rtn_;
  std::vector<size_t> steps_;
  std::vector<MatrixView<const float>> weights_;  // every steps_[l]th row
};

}  // namespace

double input_error_gradient(const EqualizerInput& input, MatrixView<const float> difference,
                            MatrixView<float> gradient) {
  const bool factored = input.inputs != nullptr && !input.inputs->factor.empty();
  std::vector<double> errors((difference.rows + kRowLanes - 1) / kRowLanes);  // their sum has one order
  parallel_for(difference.rows, kRowLanes, [&](size_t begin, size_t end) {
    for (size_t first = begin; first < end; first += kRowLanes) {
      const size_t count = std::min(kRowLanes, end - first);
      const MatrixView<const float> rows{difference.row(first), count, difference.cols, difference.stride};
      const MatrixView<float> out{gradient.row(first), count, gradient.cols, gradient.stride};
      double& error = errors[first / kRowLanes];
      if (factored) {
        error = lane_gradient(*input.inputs, rows, out);
        continue;
      }
      for (size_t r = 0; r < count; ++r)
        for (size_t c = 0; c < rows.cols; ++c) {
          const float square = input.stats.mean_square[c], d = rows.row(r)[c];
          error += double{square} * double{d} * double{d};
          out.row(r)[c] = 2 * square * d;
        }
    }
  });
  return std::max(0.0, std::accumulate(errors.begin(), errors.end(), 0.0));
}

std::vector<float> train_columns(const EqualizerInput& input, const ColumnTraining& options) {
  const size_t cols = input.stats.cols;
  const Columns columns(input, options.rows);
  Adam adam(cols);
  std::vector<double> logs(cols), gradient(cols);
  std::vector<float> scales(cols, 1.0f), best = scales;
  double least = std::numeric_limits<double>::infinity(), unit = 1;
  for (size_t i = 0; i <= options.iters; ++i) {
    const double error = columns.error(scales, gradient);
    if (i == 0) unit = error > 0 ? error : 1;
    if (error < least) {
      least = error;
      best = scales;
    }
    if (i == options.iters || error == 0) break;
    for (double& each : gradient) each /= unit;
    adam.step(gradient, options.rate * (1 - static_cast<double>(i) / static_cast<double>(options.iters)), logs);
    for (size_t c = 0; c < cols; ++c) {
      logs[c] = std::clamp(logs[c], std::log(kLeast), -std::log(kLeast));
      scales[c] = static_cast<float>(std::exp(logs[c]));
    }
  }
  return columns.better(best) ? best : std::vector<float>(cols, 1.0f);
}

}  // namespace nibble
