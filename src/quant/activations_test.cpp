#include "quant/activations.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/random.h"

namespace nibble {
namespace {

constexpr auto kDynamic = ActivationSpec::Mode::kDynamicPerToken;

std::vector<float> random_floats(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(n);
  for (float& value : out) value = static_cast<float>(random.uniform() * 3 - 1);
  return out;
}

std::vector<float> quantized(const ActivationSpec& spec, const std::vector<float>& x) {
  std::vector<float> out(x.size());
  quantize_token(spec, x.data(), out.data(), x.size());
  return out;
}

TEST(Activations, SymmetricRoundsToMultiplesOfTheScale) {
  for (const int bits : {2, 4, 8}) {
    for (const size_t n : {1u, 31u, 512u, 513u, 1100u}) {
      const std::vector<float> x = random_floats(n, n);
      const std::vector<float> out = quantized({kDynamic, bits, true, Grid::kInt}, x);
      float largest = 0;
      for (const float value : x) largest = std::max(largest, std::abs(value));
      const auto limit = static_cast<float>((1 << (bits - 1)) - 1);
      const float scale = largest / limit;
      for (size_t i = 0; i < n; ++i) {
        const float code = std::clamp(std::nearbyint(x[i] / scale), -limit - 1, limit);
        ASSERT_EQ(out[i], scale * code) << bits << " bits, n=" << n;
      }
    }
  }
}

TEST(Activations, AsymmetricCoversTheRangeAndZero) {
  // 0 to 5.1 in steps of 0.02: the zero point is code 0.
  const std::vector<float> positive = {5.1f, 1.0f, 0.019f};
  const std::vector<float> out = quantized({kDynamic, 8, false, Grid::kInt}, positive);
  EXPECT_NEAR(out[0], 5.1f, 1e-6f);
  EXPECT_NEAR(out[1], 1.0f, 1e-6f);
  EXPECT_NEAR(out[2], 0.02f, 1e-7f);
  for (const size_t n : {1u, 40u, 1030u}) {
    const std::vector<float> x = random_floats(n, n + 1);
    const std::vector<float> y = quantized({kDynamic, 8, false, Grid::kInt}, x);
    for (size_t i = 0; i < n; ++i) EXPECT_NEAR(y[i], x[i], 3.0 / 255 / 2 * 1.0001 + 3.0 / 255 / 2) << n;
  }
}

TEST(Activations, StaticScalesAreTheSameForEveryToken) {
  constexpr auto kStatic = ActivationSpec::Mode::kStatic;
  const std::vector<float> x = {0.26f, -0.1f, 100.0f, -100.0f, 0.0f};
  const std::vector<float> symmetric = quantized({kStatic, 8, true, Grid::kInt, 0.25f, 0}, x);
  EXPECT_EQ(symmetric, (std::vector<float>{0.25f, 0.0f, 31.75f, -32.0f, 0.0f}));
  const std::vector<float> asymmetric = quantized({kStatic, 8, false, Grid::kInt, 0.25f, 100}, x);
  EXPECT_EQ(asymmetric, (std::vector<float>{0.25f, 0.0f, 38.75f, -25.0f, 0.0f}));
  const std::vector<float> fp8 = quantized({kStatic, 8, true, Grid::kFP8, 0.125f, 0}, x);
  EXPECT_EQ(fp8, (std::vector<float>{0.25f, -0.1015625f, 56.0f, -56.0f, 0.0f}));
}

TEST(Activations, AsymmetricUsesEveryCode) {
  std::vector<float> x(256);
  for (size_t i = 0; i < x.size(); ++i) x[i] = (static_cast<float>(i) - 100) / 8;
  EXPECT_EQ(quantized({kDynamic, 8, false, Grid::kInt}, x), x);
}

// Every E4M3 value is kept; between two of them the nearer one wins and a tie goes to the even mantissa.
TEST(Activations, Fp8IsNearestE4M3) {
  const std::span<const float> levels = grid_levels(Grid::kFP8);
  std::vector<float> positive;
  for (const float level : levels)
    if (level >= 0 && !std::signbit(level)) positive.push_back(level);  // ascending, in the order of their patterns
  ASSERT_EQ(positive.size(), 127u);
  std::vector<float> x = {448.0f}, want = {448.0f};  // the largest input, so that the scale is 1
  for (size_t i = 0; i + 1 < positive.size(); ++i) {
    const float low = positive[i], high = positive[i + 1], middle = (low + high) / 2;
    for (const float sign : {1.0f, -1.0f}) {
      x.insert(x.end(),
               {sign * low, sign * std::nextafter(middle, 0.0f), sign * middle, sign * std::nextafter(middle, 1e9f)});
      want.insert(want.end(), {sign * low, sign * low, sign * (i % 2 == 0 ? low : high), sign * high});
    }
  }
  const std::vector<float> out = quantized({kDynamic, 8, true, Grid::kFP8}, x);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(out[i], want[i]) << x[i];
}

TEST(Activations, Fp8ScalesByTheLargest) {
  const std::vector<float> out = quantized({kDynamic, 8, true, Grid::kFP8}, {-0.896f, 0.0021f, 0.5f});
  EXPECT_FLOAT_EQ(out[0], -0.896f);
  EXPECT_FLOAT_EQ(out[1], 0.002f);  // 1.05 steps up, of 0.002: 1 is a level, 1.125 the next
  EXPECT_FLOAT_EQ(out[2], 0.512f);  // 250 lies between 240 and 256
}

TEST(Activations, UnchangedWhereThereIsNoScale) {
  const std::vector<float> zeros(20, 0.0f);
  const std::vector<float> infinite = {1, std::numeric_limits<float>::infinity(), -3};
  for (const Grid grid : {Grid::kInt, Grid::kFP8}) {
    for (const bool symmetric : {true, false}) {
      EXPECT_EQ(quantized({kDynamic, 8, symmetric, grid}, zeros), zeros);
      EXPECT_EQ(quantized({kDynamic, 8, symmetric, grid}, infinite), infinite);
      const std::vector<float> out =
          quantized({kDynamic, 8, symmetric, grid}, {std::numeric_limits<float>::quiet_NaN(), 0.3f});
      EXPECT_TRUE(std::isnan(out[0]));
      EXPECT_EQ(out[1], 0.3f);
    }
  }
  const std::vector<float> x = random_floats(9, 1);
  EXPECT_EQ(quantized({}, x), x);
}

TEST(Activations, InPlace) {
  std::vector<float> x = random_floats(1030, 4);
  for (const Grid grid : {Grid::kInt, Grid::kFP8}) {
    const ActivationSpec spec = {kDynamic, 8, true, grid};
    const std::vector<float> want = quantized(spec, x);
    quantize_token(spec, x.data(), x.data(), x.size());
    EXPECT_EQ(x, want);
  }
}

}  // namespace
}  // namespace nibble
