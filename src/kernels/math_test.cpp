#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class Norm : public EveryTable {};
class Softmax : public EveryTable {};
class LogSumExp : public EveryTable {};
class Swiglu : public EveryTable {};
class Divergence : public EveryTable {};
class Extremes : public EveryTable {};

double lse_oracle(const std::vector<float>& x) {
  long double sum = 0;
  const long double top = x.empty() ? 0.0L : static_cast<long double>(*std::max_element(x.begin(), x.end()));
  for (const float value : x) sum += std::exp(static_cast<long double>(value) - top);
  return static_cast<double>(top + std::log(sum));
}

TEST_P(Norm, DividesByTheRootMeanSquare) {
  for (const size_t n : lengths()) {
    const std::vector<float> x = random_floats(n, n + 1, 3), weight = random_floats(n, n + 2);
    std::vector<float> out(n), in_place = x;
    table().rms_norm(x.data(), weight.data(), 1e-5f, out.data(), n);
    table().rms_norm(in_place.data(), weight.data(), 1e-5f, in_place.data(), n);
    double squares = 0;
    for (const float value : x) squares += static_cast<double>(value) * static_cast<double>(value);
    const double root = std::sqrt(squares / static_cast<double>(n) + static_cast<double>(1e-5f));
    for (size_t i = 0; i < n; ++i) {
      const double want = static_cast<double>(x[i]) / root * static_cast<double>(weight[i]);
      ASSERT_NEAR(out[i], want, 3e-7 * std::abs(want)) << "n=" << n;
      ASSERT_EQ(in_place[i], out[i]);
    }
  }
}

TEST_P(Norm, KeepsATinyVectorFinite) {
  std::vector<float> x(20, 0.0f);
  const std::vector<float> weight(20, 1.0f);
  table().rms_norm(x.data(), weight.data(), 1e-6f, x.data(), 20);
  for (const float value : x) EXPECT_EQ(value, 0.0f);
}

TEST_P(Softmax, AgreesWithDouble) {
  for (const size_t n : lengths()) {
    const std::vector<float> x = random_floats(n, n, 20);
    std::vector<float> out = x;
    table().softmax(out.data(), n);
    if (n == 0) continue;
    const double lse = lse_oracle(x);
    for (size_t i = 0; i < n; ++i) {
      const double want = std::exp(static_cast<double>(x[i]) - lse);
      // The difference to the maximum is rounded once: 2^-24 of up to 40.
      ASSERT_NEAR(out[i], want, 3e-6 * want) << "n=" << n;
    }
  }
}

// One element beside a maximum of 0 is e^x itself: the whole range, down to where it vanishes.
TEST_P(Softmax, ExponentialIsAccurateEverywhere) {
  for (float step = 0; step > -120; step -= 0.01117f) {
    std::vector<float> x(19, -kInfinity);
    x[3] = 0;
    x[17] = step;
    const double want = std::exp(static_cast<double>(step)) / (1 + std::exp(static_cast<double>(step)));
    table().softmax(x.data(), x.size());
    ASSERT_NEAR(x[17], want, 4e-7 * want + 3e-45) << step;
    ASSERT_EQ(x[18], 0.0f);
  }
}

TEST_P(Softmax, MaskedAndHugeLogits) {
  std::vector<float> x = {-kInfinity, 3e38f, 3e38f, -kInfinity, -3e38f};
  table().softmax(x.data(), x.size());
  EXPECT_EQ(x, (std::vector<float>{0, 0.5f, 0.5f, 0, 0}));
}

TEST_P(LogSumExp, AgreesWithLongDouble) {
  std::vector<size_t> sizes = lengths();
  sizes.insert(sizes.end(), {49152, 262144});
  for (const size_t n : sizes) {
    if (n == 0) continue;
    const std::vector<float> x = random_floats(n, n, 15);
    EXPECT_NEAR(table().log_sum_exp(x.data(), n), lse_oracle(x), 1.2e-7) << n;
  }
}

TEST_P(LogSumExp, Limits) {
  EXPECT_EQ(table().log_sum_exp(nullptr, 0), -std::numeric_limits<double>::infinity());
  const std::vector<float> nothing(20, -kInfinity);
  EXPECT_EQ(table().log_sum_exp(nothing.data(), nothing.size()), -std::numeric_limits<double>::infinity());
  const std::vector<float> large = {1e4f, 1e4f, -kInfinity};
  EXPECT_NEAR(table().log_sum_exp(large.data(), 3), 1e4 + std::log(2.0), 1e-7);
}

TEST_P(Swiglu, AgreesWithDouble) {
  for (const size_t n : lengths()) {
    const std::vector<float> gate = random_floats(n, n + 1, 12), up = random_floats(n, n + 2);
    std::vector<float> out(n);
    table().swiglu(gate.data(), up.data(), out.data(), n);
    for (size_t i = 0; i < n; ++i) {
      const double g = gate[i], want = g / (1 + std::exp(-g)) * static_cast<double>(up[i]);
      ASSERT_NEAR(out[i], want, 5e-7 * std::abs(want)) << "n=" << n << " gate=" << g;
    }
  }
}

TEST_P(Swiglu, SaturatesWithoutNaN) {
  const std::vector<float> gate = {-1000, -90, 90, 1000, 0}, up(5, 2.0f);
  std::vector<float> out(5);
  table().swiglu(gate.data(), up.data(), out.data(), 5);
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_NEAR(out[1], 0.0f, 1e-36f);
  EXPECT_EQ(out[2], 180.0f);
  EXPECT_EQ(out[3], 2000.0f);
  EXPECT_EQ(out[4], 0.0f);
}

double divergence_oracle(const std::vector<float>& ref, const std::vector<float>& x) {
  long double sum = 0;
  const long double ref_lse = lse_oracle(ref), x_lse = lse_oracle(x);
  for (size_t i = 0; i < ref.size(); ++i) {
    const long double log_p = static_cast<long double>(ref[i]) - ref_lse;
    sum += std::exp(log_p) * (log_p - (static_cast<long double>(x[i]) - x_lse));
  }
  return static_cast<double>(sum);
}

double divergence(const Table& table, const std::vector<float>& ref, const std::vector<float>& x) {
  const double ref_lse = table.log_sum_exp(ref.data(), ref.size()), x_lse = table.log_sum_exp(x.data(), x.size());
  return table.kl_divergence(ref.data(), ref_lse, x.data(), x_lse, ref.size());
}

TEST_P(Divergence, AgreesWithLongDouble) {
  std::vector<size_t> sizes = lengths();
  sizes.insert(sizes.end(), {49152, 262144});
  for (const size_t n : sizes) {
    if (n == 0) continue;
    const std::vector<float> ref = random_floats(n, n + 1, 15), noise = random_floats(n, n + 2, 0.3f);
    std::vector<float> x(n);
    for (size_t i = 0; i < n; ++i) x[i] = ref[i] + noise[i];
    EXPECT_NEAR(divergence(table(), ref, x), divergence_oracle(ref, x), 2e-7) << n;
  }
}

// Models whose logits differ by a constant predict the same: the constant must not leak into the result.
TEST_P(Divergence, IgnoresAConstantShift) {
  const std::vector<float> ref = random_floats(5000, 7, 8);
  std::vector<float> x(ref.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] = ref[i] + 64.0f;
  EXPECT_NEAR(divergence(table(), ref, x), divergence_oracle(ref, x), 2e-7);
  EXPECT_EQ(divergence(table(), ref, ref), 0.0);
}

TEST_P(Divergence, ImpossibleTokens) {
  std::vector<float> ref = random_floats(40, 1), x = random_floats(40, 2);
  ref[5] = ref[39] = -kInfinity;
  x[5] = -kInfinity;
  EXPECT_TRUE(std::isfinite(divergence(table(), ref, x)));
  x[6] = -kInfinity;
  EXPECT_EQ(divergence(table(), ref, x), std::numeric_limits<double>::infinity());
}

TEST_P(Extremes, ArgmaxFindsTheFirst) {
  for (const size_t n : lengths()) {
    std::vector<float> x = random_floats(n, n + 3, 50);
    EXPECT_EQ(table().argmax(x.data(), n),
              static_cast<size_t>(n == 0 ? 0 : std::max_element(x.begin(), x.end()) - x.begin()));
    for (size_t first = 0; first < n; first += 1 + n / 16) {
      std::vector<float> ties(n, -2.0f);
      ties[first] = ties[n - 1] = -1.0f;
      ASSERT_EQ(table().argmax(ties.data(), n), first) << "n=" << n;
    }
  }
}

TEST_P(Extremes, ArgmaxOfOddValues) {
  std::vector<float> x(37, -kInfinity);
  EXPECT_EQ(table().argmax(x.data(), x.size()), 0u);
  x[0] = kNaN, x[36] = -5;
  EXPECT_EQ(table().argmax(x.data(), x.size()), 36u);
}

TEST_P(Extremes, MinMax) {
  for (const size_t n : lengths()) {
    std::vector<float> x = random_floats(n, n + 4);
    float lo = 0, hi = 0;
    table().min_max(x.data(), n, &lo, &hi);
    EXPECT_EQ(lo, n == 0 ? kInfinity : *std::min_element(x.begin(), x.end())) << n;
    EXPECT_EQ(hi, n == 0 ? -kInfinity : *std::max_element(x.begin(), x.end())) << n;
    for (size_t at = 0; at < n; at += 1 + n / 16) {
      const float kept = x[at];
      x[at] = kNaN;
      table().min_max(x.data(), n, &lo, &hi);
      ASSERT_TRUE(std::isnan(lo)) << "n=" << n << " at=" << at;
      x[at] = kept;
    }
  }
}

NIBBLE_FOR_EVERY_TABLE(Norm);
NIBBLE_FOR_EVERY_TABLE(Softmax);
NIBBLE_FOR_EVERY_TABLE(LogSumExp);
NIBBLE_FOR_EVERY_TABLE(Swiglu);
NIBBLE_FOR_EVERY_TABLE(Divergence);
NIBBLE_FOR_EVERY_TABLE(Extremes);

}  // namespace
}  // namespace nibble::kernels
