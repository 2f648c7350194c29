#include "algo/scale_gradient.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/random.h"

namespace nibble {
namespace {

constexpr size_t kRows = 40, kCols = 12;

std::vector<float> random_floats(size_t count, uint64_t seed, double low, double high) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(low + (high - low) * random.uniform());
  return values;
}

struct Sample {
  explicit Sample(const QuantSpec& grid) : spec(grid) {}

  // The step of the group of an element, from the scaled weights, in double.
  double step(size_t row, size_t col, const std::vector<double>& s) const {
    const size_t size = spec.group_size(kCols), begin = col / size * size;
    double low = 0, high = 0;
    for (size_t r = spec.per_tensor ? 0 : row; r < (spec.per_tensor ? kRows : row + 1); ++r)
      for (size_t c = begin; c < std::min(kCols, begin + size); ++c) {
        low = std::min(low, double{weight[r * kCols + c]} * s[c]);
        high = std::max(high, double{weight[r * kCols + c]} * s[c]);
      }
    return spec.symmetric ? std::max(high, -low) / 7 : (high - low) / 15;
  }

  // L = sum of G V, V = (W s + step * residual) / s: what rounding does as long as no code changes.
  double loss(const std::vector<double>& s) const {
    double sum = 0;
    for (size_t r = 0; r < kRows; ++r)
      for (size_t c = 0; c < kCols; ++c) {
        const size_t i = r * kCols + c;
        sum += double{gradient[i]} * (double{weight[i]} + step(r, c, s) * double{residual[i]} / s[c]);
      }
    return sum;
  }

  QuantSpec spec;
  std::vector<float> weight = random_floats(kRows * kCols, 1, -1, 1.3);
  std::vector<float> gradient = random_floats(kRows * kCols, 2, -1, 1);
  std::vector<float> residual = random_floats(kRows * kCols, 3, -0.5, 0.5);
  std::vector<float> scales = random_floats(kCols, 4, 0.5, 2);
};

std::vector<QuantSpec> specs() {
  std::vector<QuantSpec> all(4);
  all[0].group = 4;
  all[1].group = 5;  // the last one is short
  all[1].symmetric = false;
  all[2].group = QuantSpec::kWholeRow;
  all[3].group = QuantSpec::kWholeRow;
  all[3].per_tensor = true;
  all[3].symmetric = false;
  return all;
}

TEST(ScaleGradient, AgreesWithFiniteDifferences) {
  for (const QuantSpec& spec : specs()) {
    const Sample sample(spec);
    const std::vector<double> at(sample.scales.begin(), sample.scales.end());
    std::vector<float> rounded(kRows * kCols);
    for (size_t i = 0; i < rounded.size(); ++i)
      rounded[i] = static_cast<float>(double{sample.weight[i]} + sample.step(i / kCols, i % kCols, at) *
                                                                     double{sample.residual[i]} / at[i % kCols]);
    const std::vector<double> got =
        scale_gradient(matrix(sample.weight.data(), kRows, kCols), matrix<const float>(rounded.data(), kRows, kCols),
                       matrix(sample.gradient.data(), kRows, kCols), spec, sample.scales);
    double size = 0;
    for (size_t j = 0; j < kCols; ++j) {
      std::vector<double> up = at, down = at;
      up[j] *= 1 + 1e-5, down[j] *= 1 - 1e-5;
      const double want = (sample.loss(up) - sample.loss(down)) / 2e-5;
      size = std::max(size, std::abs(want));
      EXPECT_NEAR(got[j], want, 1e-4) << describe(spec) << " column " << j;
    }
    EXPECT_GT(size, 0.1);
    // All columns together: nothing changes.
    EXPECT_NEAR(std::accumulate(got.begin(), got.end(), 0.0), 0, 1e-9) << describe(spec);
  }
}

}  // namespace
}  // namespace nibble
