#include "model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>

#include "kernels/kernels.h"

namespace nibble {
namespace {

void expect_frequencies(const RopeConfig& rope, const std::vector<double>& want) {
  const auto got = rope_frequencies(rope);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-8 * want[i]) << i;
}

RopeConfig with(RopeConfig::Kind kind, double theta, double factor, size_t context) {
  RopeConfig rope;
  rope.kind = kind, rope.theta = theta, rope.factor = factor, rope.original_context = context, rope.dims = 16;
  return rope;
}

// Reference values: the published formulae, evaluated in Python.
TEST(Rope, Frequencies) {
  using Kind = RopeConfig::Kind;
  expect_frequencies(with(Kind::kDefault, 1e8, 1, 0), {1, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7});
  expect_frequencies(with(Kind::kLinear, 1e8, 4, 0), {0.25, 0.025, 0.0025, 2.5e-4, 2.5e-5, 2.5e-6, 2.5e-7, 2.5e-8});
  expect_frequencies(with(Kind::kLlama3, 500000, 8, 8192),
                     {1, 0.1939227447, 0.03760603093, 0.007292664737, 0.000524846161, 3.428102196e-05, 6.647869871e-06,
                      1.289173172e-06});
  expect_frequencies(with(Kind::kYarn, 1e6, 4, 32768), {1, 0.177827941, 0.0316227766, 0.004217559939, 0.0005,
                                                        4.445698525e-05, 7.90569415e-06, 1.405853313e-06});
  RopeConfig fractional = with(Kind::kYarn, 10000, 8, 64);
  fractional.truncate = false;
  expect_frequencies(fractional, {1, 0.1789761458, 0.01319445354, 0.003952847075, 0.00125, 0.0003952847075, 0.000125,
                                  3.952847075e-05});
}

TEST(Rope, RotatesPairsAndLeavesTheRest) {
  const std::vector<float> frequencies = {1.0f, 0.25f};
  std::vector<float> cosines(3 * 2), sines(3 * 2);
  rope_table(frequencies, 1.5f, 7, 3, cosines.data(), sines.data());
  const std::vector<float> before = {1, 2, 3, 4, 5, 6};
  auto head = before;
  kernels::active().rope(head.data(), 2, cosines.data() + 2 * 2, sines.data() + 2 * 2);  // position 9
  for (size_t i = 0; i < 2; ++i) {
    const auto want = 1.5 * std::complex<double>(double{before[i]}, double{before[i + 2]}) *
                      std::polar(1.0, 9.0 * double{frequencies[i]});
    EXPECT_NEAR(head[i], want.real(), 1e-5);
    EXPECT_NEAR(head[i + 2], want.imag(), 1e-5);
  }
  EXPECT_EQ(head[4], 5);
  EXPECT_EQ(head[5], 6);
}

}  // namespace
}  // namespace nibble
