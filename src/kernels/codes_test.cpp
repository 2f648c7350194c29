#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class Codes : public EveryTable {};

// Bit by bit: the definition of the stream.
unsigned field(const std::vector<uint8_t>& packed, size_t bits, size_t i) {
  unsigned value = 0;
  for (size_t b = 0; b < bits; ++b) value |= (packed[(i * bits + b) / 8] >> ((i * bits + b) % 8) & 1u) << b;
  return value;
}

TEST_P(Codes, UnpacksEveryWidthFromEveryStart) {
  for (size_t bits = 1; bits <= 8; ++bits) {
    for (const size_t first : {0u, 1u, 2u, 3u, 5u, 7u, 8u, 13u, 31u}) {
      for (const size_t n : lengths()) {
        const std::vector<uint8_t> packed = random_bytes(((first + n) * bits + 7) / 8, n + bits);
        std::vector<uint8_t> out(n);
        table().unpack_codes(packed.data(), static_cast<int>(bits), first, n, out.data());
        for (size_t i = 0; i < n; ++i)
          ASSERT_EQ(out[i], field(packed, bits, first + i))
              << bits << " bits, first " << first << ", n " << n << ", i " << i;
      }
    }
  }
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) { return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y); });
}

TEST_P(Codes, ScaleWithZeroAndWithMinimum) {
  for (const size_t n : lengths()) {
    const std::vector<uint8_t> codes = random_bytes(n, n);
    std::vector<float> zeroed(n), lifted(n), want_zeroed(n), want_lifted(n);
    table().scale_codes(codes.data(), 0.0123f, 77.0f, zeroed.data(), n);
    table().scale_codes_min(codes.data(), 0.0123f, -0.771f, lifted.data(), n);
    for (size_t i = 0; i < n; ++i) {
      want_zeroed[i] = 0.0123f * static_cast<float>(codes[i] - 77);
      const volatile float product = 0.0123f * static_cast<float>(codes[i]);  // rounded before the addition
      want_lifted[i] = product + -0.771f;
    }
    EXPECT_TRUE(same_bits(zeroed, want_zeroed)) << n;
    EXPECT_TRUE(same_bits(lifted, want_lifted)) << n;
  }
}

TEST_P(Codes, EncodeIsTheSameInEveryTable) {
  for (const size_t n : lengths()) {
    for (const float scale : {0.1f, 0.037f, -0.05f, 1e-38f}) {
      const std::vector<float> x = random_floats(n, n + 9);
      std::vector<uint8_t> out(n), want(n);
      table().encode(x.data(), n, scale, 8, 1, 15, out.data());
      available().back()->encode(x.data(), n, scale, 8, 1, 15, want.data());
      EXPECT_EQ(out, want) << n << " " << scale;
    }
  }
}

TEST_P(Codes, EncodeRoundsTiesToEvenAndClamps) {
  const std::vector<float> x = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 100,  -100, 0,    6.5f,
                                7.5f, 0.5f, 1.5f, 2.5f,  3.5f,  4.5f, 5.5f, -2.5f};
  const std::vector<uint8_t> want = {8, 10, 10, 8, 6, 15, 0, 8, 14, 15, 8, 10, 10, 12, 12, 14, 6};
  std::vector<uint8_t> out(x.size());
  table().encode(x.data(), x.size(), 1, 8, 0, 15, out.data());
  EXPECT_EQ(out, want);
}

TEST_P(Codes, EncodeReachesAllEightBits) {
  std::vector<float> x(256);
  std::vector<uint8_t> out(256);
  for (size_t i = 0; i < 256; ++i) x[i] = static_cast<float>(i) * 0.25f - 32;
  table().encode(x.data(), 256, 0.25f, 128, 0, 255, out.data());
  for (size_t i = 0; i < 256; ++i) EXPECT_EQ(out[i], i);
}

NIBBLE_FOR_EVERY_TABLE(Codes);

TEST(Tables, ScalarIsLastAndActiveIsAvailable) {
  ASSERT_FALSE(available().empty());
  EXPECT_EQ(available().back()->name, "scalar");
  EXPECT_NE(std::find(available().begin(), available().end(), &active()), available().end());
}

}  // namespace
}  // namespace nibble::kernels
