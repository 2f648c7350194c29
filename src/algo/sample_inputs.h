#pragma once
#include <cmath>
#include <vector>

#include "core/random.h"
#include "quant/input_stats.h"

// For tests: correlated inputs with a few outlier columns, and what calibration makes of them.
namespace nibble::testing_support {

struct SampleInputs {
  size_t cols, tokens;
  std::vector<double> x;  // [tokens, cols]
  InputStats stats;
  InputFactor factor;

  SampleInputs(size_t n_cols, size_t n_tokens, uint64_t seed, const FactorOptions& options = {})
      : cols(n_cols), tokens(n_tokens), x(n_cols * n_tokens) {
    Random random(seed);
    const auto normal = [&] {
      double sum = -6;
      for (int i = 0; i < 12; ++i) sum += random.uniform();
      return sum;
    };
    std::vector<double> size(cols), direction(cols);
    for (size_t c = 0; c < cols; ++c) {
      size[c] = random.uniform() < 0.05 ? 20 : 0.2 + random.uniform();
      direction[c] = normal();
    }
    for (size_t t = 0; t < tokens; ++t) {
      const double shared = normal();
      double* const row = x.data() + t * cols;
      for (size_t c = 0; c < cols; ++c) {
        const double before = c > 0 ? row[c - 1] / size[c - 1] : 0;
        row[c] = size[c] * (normal() + 0.7 * before + shared * direction[c]);
      }
    }
    stats.cols = cols;
    stats.tokens = tokens;
    stats.mean_square.resize(cols);
    stats.mean_abs.resize(cols);
    stats.max_abs.resize(cols);
    for (size_t c = 0; c < cols; ++c) {
      double sum = 0, largest = 0;
      for (size_t t = 0; t < tokens; ++t) {
        sum += std::abs(x[t * cols + c]);
        largest = std::max(largest, std::abs(x[t * cols + c]));
      }
      stats.mean_abs[c] = static_cast<float>(sum / static_cast<double>(tokens));
      stats.max_abs[c] = static_cast<float>(largest);
      for (size_t k = 0; k <= c; ++k) {
        double product = 0;
        for (size_t t = 0; t < tokens; ++t) product += x[t * cols + c] * x[t * cols + k];
        stats.gram.push_back(product / static_cast<double>(tokens));
      }
      stats.mean_square[c] = static_cast<float>(stats.gram.back());
    }
    InputStats copy = stats;
    factor = factor_inputs(std::move(copy), options);
  }

  // Mean over the tokens of |D x|^2, D: [any, cols].
  double error(const std::vector<float>& difference) const {
    double sum = 0;
    for (size_t r = 0; r < difference.size() / cols; ++r)
      for (size_t t = 0; t < tokens; ++t) {
        double output = 0;
        for (size_t c = 0; c < cols; ++c) output += static_cast<double>(difference[r * cols + c]) * x[t * cols + c];
        sum += output * output;
      }
    return sum / static_cast<double>(tokens);
  }
};

// Mostly small, a few outliers.
inline std::vector<float> random_weights(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> w(n);
  for (float& x : w)
    x = static_cast<float>(0.05 * (random.uniform() - random.uniform()) * (random.uniform() < 0.02 ? 5 : 1));
  return w;
}

}  // namespace nibble::testing_support
