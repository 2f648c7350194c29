#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/random.h"

namespace nibble {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The value of a 16-bit pattern by the definition of the formats.
double decode(uint16_t bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits & 0x7fff) >> fraction_bits;
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return fraction ? std::nan("") : sign * kInfinity;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

// The nearest pattern of all, ties to the even one: the neighbours of a positive value are found by halving.
uint16_t encode(double value, int exponent_bits) {
  const auto infinity = static_cast<uint16_t>(((1 << exponent_bits) - 1) << (15 - exponent_bits));
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::abs(value);
  uint16_t low = 0, high = infinity;  // decode(low) <= magnitude < decode(high)
  while (high - low > 1) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    (decode(middle, exponent_bits) <= magnitude ? low : high) = middle;
  }
  // Beyond the largest finite value rounding goes on as if the next binade were there.
  const double above = high == infinity
                           ? 2 * decode(low, exponent_bits) - decode(static_cast<uint16_t>(low - 1), exponent_bits)
                           : decode(high, exponent_bits);
  const double down = magnitude - decode(low, exponent_bits), up = above - magnitude;
  return static_cast<uint16_t>(sign | (down < up || (down == up && low % 2 == 0) ? low : high));
}

struct Format {
  const char* name;
  int exponent_bits;
  float (*to_float)(uint16_t);
  uint16_t (*from_float)(float);
};

class Half : public testing::TestWithParam<Format> {};

TEST_P(Half, EveryPatternDecodesAndRoundTrips) {
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const double want = decode(bits, GetParam().exponent_bits);
    const float got = GetParam().to_float(bits);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(got)) << bits;
      const uint16_t back = GetParam().from_float(got);
      ASSERT_TRUE(std::isnan(decode(back, GetParam().exponent_bits))) << bits;
      ASSERT_EQ(back & 0x8000, bits & 0x8000) << bits;
    } else {
      ASSERT_EQ(static_cast<double>(got), want) << bits;
      ASSERT_EQ(std::signbit(got), std::signbit(want)) << bits;
      ASSERT_EQ(GetParam().from_float(got), bits);
    }
  }
}

TEST_P(Half, RoundsToNearestEven) {
  std::vector<float> values = {65504.0f,
                               65519.996f,
                               65520.0f,
                               65536.0f,
                               0x1p-24f,
                               0x1p-25f,
                               0x1.000002p-25f,
                               0x1.8p-24f,
                               0x1p-14f,
                               0x1.ffcp-15f,
                               0x1.ffep-15f,
                               std::numeric_limits<float>::max(),
                               std::numeric_limits<float>::denorm_min(),
                               std::numeric_limits<float>::infinity()};
  // Halfway between neighbours, and one float to either side.
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const auto middle = static_cast<float>((decode(static_cast<uint16_t>(bits), GetParam().exponent_bits) +
                                            decode(static_cast<uint16_t>(bits + 1), GetParam().exponent_bits)) /
                                           2);
    values.insert(values.end(), {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e38f)});
  }
  Random random(1);
  for (int i = 0; i < 200'000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random.next()));
    if (!std::isnan(value)) values.push_back(value);
    values.push_back(static_cast<float>((random.uniform() - 0.5) * 8));
  }
  for (const float value : values)
    for (const float x : {value, -value}) ASSERT_EQ(GetParam().from_float(x), encode(x, GetParam().exponent_bits)) << x;
}

INSTANTIATE_TEST_SUITE_P(Formats, Half,
                         testing::Values(Format{"f16", 5, f16_to_f32, f32_to_f16},
                                         Format{"bf16", 8, bf16_to_f32, f32_to_bf16}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace nibble
