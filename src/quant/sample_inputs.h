#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/random.h"
#include "quant/input_stats.h"

// For tests: inputs of a linear and straightforward algebra in double.
namespace nibble::testing_support {

using Square = std::vector<std::vector<double>>;  // [n][n]

// Inputs whose features are correlated and differ in size by two orders of magnitude, as those of a transformer do.
// rank < cols gives a singular H.
inline InputStats random_inputs(size_t cols, size_t rank, uint64_t seed) {
  Random random(seed);
  const auto uniform = [&] { return 2 * random.uniform() - 1; };
  std::vector<std::vector<double>> mix(rank, std::vector<double>(cols));
  std::vector<double> size(cols);
  for (double& s : size) s = std::pow(10.0, uniform());
  for (size_t k = 0; k < rank; ++k)
    for (size_t c = 0; c < cols; ++c)
      mix[k][c] = size[c] * (uniform() + (c > 0 ? 0.7 * mix[k][c - 1] / size[c - 1] : 0));
  InputStats stats;
  stats.cols = cols;
  stats.tokens = rank;
  for (size_t r = 0; r < cols; ++r)
    for (size_t c = 0; c <= r; ++c) {
      double sum = 0;
      for (size_t k = 0; k < rank; ++k) sum += mix[k][r] * mix[k][c];
      stats.gram.push_back(sum / static_cast<double>(rank));
    }
  for (size_t c = 0; c < cols; ++c) stats.mean_square.push_back(static_cast<float>(stats.gram[c * (c + 3) / 2]));
  return stats;
}

// No input ever in this column.
inline void kill_column(InputStats& stats, size_t dead) {
  for (size_t r = 0; r < stats.cols; ++r)
    for (size_t c = 0; c <= r; ++c)
      if (r == dead || c == dead) stats.gram[r * (r + 1) / 2 + c] = 0;
  stats.mean_square[dead] = 0;
}

inline Square full_gram(const InputStats& stats) {
  Square h(stats.cols, std::vector<double>(stats.cols));
  for (size_t r = 0; r < stats.cols; ++r)
    for (size_t c = 0; c <= r; ++c) h[r][c] = h[c][r] = stats.gram[r * (r + 1) / 2 + c];
  return h;
}

// d H d^T of one row.
inline double quadratic(const Square& h, const std::vector<double>& d) {
  double sum = 0;
  for (size_t i = 0; i < d.size(); ++i)
    for (size_t j = 0; j < d.size(); ++j) sum += d[i] * h[i][j] * d[j];
  return sum;
}

}  // namespace nibble::testing_support
