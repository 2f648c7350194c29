#include "quant/value_histogram.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "core/threads.h"

namespace nibble {
namespace {

std::vector<float> wild_values(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& value : values)
    value = static_cast<float>((random.uniform() * 2 - 1) * std::exp2(20 * random.uniform() - 10));
  return values;
}

// What the bins mean, counted one by one with the final width.
void expect_counts(const ValueHistogram& histogram, const std::vector<float>& values) {
  constexpr auto kSide = static_cast<double>(ValueHistogram::kSide);
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  EXPECT_EQ(histogram.low(), *low);
  EXPECT_EQ(histogram.high(), *high);
  EXPECT_EQ(histogram.total(), values.size());
  const double width = histogram.width();
  EXPECT_EQ(std::exp2(std::round(std::log2(width))), width);
  EXPECT_GE(double{*low}, -kSide * width);
  EXPECT_LT(double{*high}, kSide * width);
  // No smaller power of two would do.
  EXPECT_TRUE(double{*low} < -kSide * width / 2 || double{*high} >= kSide * width / 2);
  std::vector<uint64_t> want(2 * ValueHistogram::kSide);
  for (const float value : values) ++want[static_cast<size_t>(std::floor(double{value} / width) + kSide)];
  EXPECT_EQ(histogram.counts(), want);
}

TEST(ValueHistogram, CountsAsIfItHadKnownTheRange) {
  for (const uint64_t seed : {1U, 2U, 3U}) {
    const std::vector<float> values = wild_values(6000, seed);
    ValueHistogram whole, parts;
    whole.add(matrix<const float>(values.data(), 60, 100));
    for (size_t r = 0; r < 60; r += 7)
      parts.add(matrix<const float>(values.data() + r * 100, std::min<size_t>(7, 60 - r), 100));
    expect_counts(whole, values);
    expect_counts(parts, values);
  }
}

TEST(ValueHistogram, NeitherOrderNorThreadsMatter) {
  std::vector<float> values = wild_values(4000, 5);
  ValueHistogram up, down;
  std::sort(values.begin(), values.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
  set_thread_count(3);
  for (size_t r = 0; r < 40; ++r) up.add(matrix<const float>(values.data() + r * 100, 1, 100));
  set_thread_count(1);
  for (size_t r = 40; r-- > 0;) down.add(matrix<const float>(values.data() + r * 100, 1, 100));
  set_thread_count(0);
  EXPECT_EQ(up.width(), down.width());
  EXPECT_EQ(up.counts(), down.counts());
}

TEST(ValueHistogram, EdgesAndZeros) {
  const std::vector<float> zeros(10), edge = {-1.0f, 0.5f}, beyond = {1.0f};
  ValueHistogram histogram;
  histogram.add(matrix<const float>(zeros.data(), 2, 5));
  EXPECT_EQ(histogram.width(), 0);
  EXPECT_EQ(histogram.counts()[ValueHistogram::kSide], 10u);
  histogram.add(matrix<const float>(edge.data(), 1, 2));  // -1 is the lower edge of the first bin
  std::vector<float> all = zeros;
  all.insert(all.end(), edge.begin(), edge.end());
  expect_counts(histogram, all);
  EXPECT_EQ(histogram.counts().front(), 1u);
  histogram.add(matrix<const float>(beyond.data(), 1, 1));  // 1 is beyond the last one
  all.push_back(1.0f);
  expect_counts(histogram, all);
  ValueHistogram none;
  none.add(matrix<const float>(nullptr, 0, 5));
  EXPECT_EQ(none.total(), 0u);
}

}  // namespace
}  // namespace nibble
