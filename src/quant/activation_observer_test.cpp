#include "quant/activation_observer.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/half.h"
#include "core/random.h"
#include "core/test_errors.h"
#include "quant/activations.h"

namespace nibble {
namespace {

using testing::HasSubstr;

constexpr ActivationSpec kAffine{.mode = ActivationSpec::Mode::kStatic, .bits = 8, .symmetric = false};

// Bell-shaped with a long tail on the right.
std::vector<float> tailed_values(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& value : values) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += random.uniform();
    value = static_cast<float>(random.uniform() < 0.0005 ? 300 + 10 * sum : sum);
  }
  return values;
}

MatrixView<const float> row(const std::vector<float>& values) {
  return matrix<const float>(values.data(), 1, values.size());
}

TEST(ActivationObserver, NamesGoForthAndBack) {
  for (const char* text : {"minmax", "entropy", "percentile:99.9", "percentile:100"})
    EXPECT_EQ(describe(parse_observer(text)), text);
  EXPECT_EQ(describe(parse_observer("Percentile")), "percentile:99.99");
  for (const char* text :
       {"", "max", "percentile:", "percentile:50", "percentile:101", "percentile:9x", "percentile:nan"})
    EXPECT_THAT(error_text([&] { parse_observer(text); }), HasSubstr("known are minmax")) << text;
}

TEST(ActivationObserver, SpansTheRange) {
  const ActivationSpec affine = spanning(kAffine, {-1.0f, 4.1f}, DType::kF32);
  EXPECT_FLOAT_EQ(affine.scale, 5.1f / 255);
  EXPECT_EQ(affine.zero, 50);
  // 0 is always in it, and is a code.
  EXPECT_EQ(spanning(kAffine, {2, 4}, DType::kF32).zero, 0);
  EXPECT_EQ(spanning(kAffine, {-4, -2}, DType::kF32).zero, 255);
  ActivationSpec symmetric = kAffine;
  symmetric.symmetric = true;
  EXPECT_FLOAT_EQ(spanning(symmetric, {-1, 4}, DType::kF32).scale, 4.0f / 127);
  symmetric.grid = Grid::kFP8;
  EXPECT_FLOAT_EQ(spanning(symmetric, {-8, 4}, DType::kF32).scale, 8.0f / 448);
  EXPECT_EQ(spanning(kAffine, {0, 0}, DType::kF32).scale, 1.0f);
  const float half = spanning(kAffine, {-1.0f, 4.1f}, DType::kBF16).scale;
  EXPECT_EQ(half, bf16_to_f32(f32_to_bf16(5.1f / 255)));
  EXPECT_GT(spanning(kAffine, {0, 1e-30f}, DType::kF16).scale, 0);
  // What is in the range comes back within half a step.
  std::vector<float> x = {-1.0f, -0.3f, 0.0f, 0.7f, 4.1f}, back(x.size());
  quantize_token(affine, x.data(), back.data(), x.size());
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(back[i], x[i], 0.5001f * affine.scale);
  EXPECT_EQ(back[2], 0.0f);
}

TEST(ActivationObserver, MinMaxSeesEverything) {
  const std::vector<float> values = tailed_values(5000, 1);
  ActivationObserver observer({});
  observer.add(matrix<const float>(values.data(), 50, 50));
  observer.add(matrix<const float>(values.data() + 2500, 50, 50));
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  EXPECT_EQ(observer.range(kAffine).low, *low);
  EXPECT_EQ(observer.range(kAffine).high, *high);
  for (const auto kind :
       {ObserverOptions::Kind::kMinMax, ObserverOptions::Kind::kPercentile, ObserverOptions::Kind::kEntropy}) {
    const std::vector<float> zeros(8);
    ActivationObserver empty({.kind = kind});
    empty.add(row(zeros));
    EXPECT_EQ(empty.chosen(kAffine, DType::kF32).scale, 1.0f);
  }
}

TEST(ActivationObserver, PercentilesAreThoseOfTheSortedValues) {
  std::vector<float> values = tailed_values(40000, 2);
  ValueHistogram histogram;
  histogram.add(row(values));
  std::sort(values.begin(), values.end());
  for (const double percentile : {60.0, 90.0, 99.0, 99.9, 100.0}) {
    const auto cut = static_cast<size_t>((100 - percentile) / 200 * static_cast<double>(values.size()));
    const ValueRange range = percentile_range(histogram, percentile);
    const auto width = static_cast<float>(histogram.width());
    EXPECT_NEAR(range.low, values[cut], width) << percentile;
    EXPECT_LE(range.low, values[cut]);
    EXPECT_NEAR(range.high, values[values.size() - 1 - cut], width) << percentile;
    EXPECT_GE(range.high, values[values.size() - 1 - cut]);
  }
  EXPECT_EQ(percentile_range(histogram, 100).high, values.back());
}

// The definition of entropy_range(), from the values themselves.
ValueRange best_by_definition(const std::vector<float>& values, double width) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const double all_low = std::min(0.0, double{*low}), all_high = std::max(0.0, double{*high});
  const double largest = std::max(-all_low, all_high);
  double least = INFINITY;
  ValueRange best;
  for (int i = 0; i == 0 || largest * std::pow(2.0, -i / 8.0) >= 256 * width; ++i) {
    const double t = largest * std::pow(2.0, -i / 8.0);
    const auto from = static_cast<float>(std::max(all_low, -t)), to = static_cast<float>(std::min(all_high, t));
    const float scale = (to - from) / 255;
    const double zero = std::clamp(std::nearbyint(double{-from / scale}), 0.0, 255.0);
    const double first = std::floor(double{from} / width), last = std::floor(double{to} / width);
    std::map<double, double> p, kept;  // by bin
    for (const float value : values) {
      const double bin = std::floor(double{value} / width);
      ++p[std::clamp(bin, first, last)];
      if (bin >= first && bin <= last) ++kept[bin];
    }
    std::map<double, std::vector<double>> levels;
    double within = 0;
    for (const auto& [bin, count] : kept) {
      within += count;
      levels[std::clamp(std::nearbyint((bin + 0.5) * width / double{scale}) + zero, 0.0, 255.0)].push_back(bin);
    }
    std::map<double, double> q;
    for (const auto& [level, bins] : levels) {
      double sum = 0;
      for (const double bin : bins) sum += kept[bin];
      for (const double bin : bins) q[bin] = sum / static_cast<double>(bins.size()) / within;
    }
    double divergence = 0;
    for (const auto& [bin, count] : p) {
      const double share = count / static_cast<double>(values.size());
      divergence += share * std::log(share / (q.contains(bin) ? q[bin] : 1e-9));
    }
    if (divergence < least) least = divergence, best = {from, to};
  }
  return best;
}

TEST(ActivationObserver, EntropyFindsTheLeastDivergence) {
  for (const uint64_t seed : {3U, 4U}) {
    const std::vector<float> values = tailed_values(20000, seed);
    ValueHistogram histogram;
    histogram.add(row(values));
    const ValueRange range = entropy_range(histogram, kAffine), want = best_by_definition(values, histogram.width());
    EXPECT_EQ(range.low, want.low);
    EXPECT_EQ(range.high, want.high);
    EXPECT_LT(range.high, *std::max_element(values.begin(), values.end()));  // the tail is worth less than its steps
  }
}

}  // namespace
}  // namespace nibble
