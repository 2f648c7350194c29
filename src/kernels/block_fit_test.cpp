#include "kernels/block_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

constexpr float kLevels[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct Sample {
  explicit Sample(size_t n) : x(n * kFitGroups), w(n * kFitGroups) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (float& value : x) value = normal(random);
    for (float& value : w) value = std::abs(normal(random)) + 0.1f;
    for (size_t i = 0; i < n; ++i) x[i * kFitGroups + 3] = 0;  // a group of zeros
    for (size_t i = 0; i < n; ++i) w[i * kFitGroups + 5] = 0;  // one that does not count
  }
  std::vector<float> x, w;
};

// The level nearest to v, and its code.
std::pair<double, int> nearest(const FitGroups& groups, double v) {
  if (groups.levels == nullptr) {
    const double level = std::nearbyint(std::clamp(v, double{groups.low}, double{groups.high}));
    return {level, static_cast<int>(level - double{groups.low})};
  }
  int best = 0;
  for (int k = 1; k < 16; ++k)
    if (std::abs(double{groups.levels[k]} - v) < std::abs(double{groups.levels[best]} - v)) best = k;
  return {groups.levels[best], best};
}

double error_of(const FitGroups& groups, size_t g, double scale, double min) {
  double error = 0;
  for (size_t i = 0; i < groups.n; ++i) {
    const double x = groups.x[i * kFitGroups + g],
                 level = scale == 0 ? nearest(groups, 0).first : nearest(groups, (x - min) / scale).first;
    error += double{groups.w[i * kFitGroups + g]} * (x - scale * level - min) * (x - scale * level - min);
  }
  return error;
}

class EveryBlockFit : public EveryTable {};

TEST_P(EveryBlockFit, SumsAndCodesAreThoseOfTheDefinition) {
  const BlockFit& fit = block_fit(table());
  const Sample sample(32);
  for (const int kind : {0, 1, 2}) {
    const FitGroups groups{sample.x.data(),          sample.w.data(),          32,        kind == 2 ? kLevels : nullptr,
                           kind == 0 ? -8.0f : 0.0f, kind == 0 ? 7.0f : 15.0f, kind == 1, true};
    FitMap map;
    for (size_t g = 0; g < kFitGroups; ++g) {
      map.scale[g] = g == 3 ? 0.0f : (kind == 2 ? 0.02f : 0.3f) * static_cast<float>(g + 1) / 10.0f;
      map.min[g] = kind == 1 ? -2.0f + 0.1f * static_cast<float>(g) : 0.0f;
    }
    FitSums sums;
    fit.measure(groups, map, &sums);
    std::vector<uint8_t> codes(32 * kFitGroups);
    fit.encode(groups, map, codes.data());
    for (size_t g = 0; g < kFitGroups; ++g) {
      double ee = 0, el = 0, ll = 0, magnitude = 0;
      for (size_t i = 0; i < 32; ++i) {
        const float x = sample.x[i * kFitGroups + g], w = sample.w[i * kFitGroups + g];
        // The quotient as the kernel has it, so that ties fall alike.
        const float v = map.scale[g] == 0 ? 0.0f : (x - map.min[g]) * (1.0f / map.scale[g]);
        const auto [level, code] = nearest(groups, double{v});
        EXPECT_EQ(codes[i * kFitGroups + g], code) << kind << " group " << g << " element " << i;
        const double e = double{x} - (double{map.scale[g]} * level + double{map.min[g]});
        ee += double{w} * e * e, el += double{w} * e * level, ll += double{w} * level * level;
        magnitude += double{w} * std::abs(e * level);
      }
      EXPECT_NEAR(sums.ee[g], ee, 1e-5 * ee);
      EXPECT_NEAR(sums.el[g], el, 1e-5 * magnitude);
      EXPECT_NEAR(sums.ll[g], ll, 1e-5 * ll);
    }
  }
}

TEST_P(EveryBlockFit, SearchIsNoWorseThanItsCandidates) {
  const BlockFit& fit = block_fit(table());
  const Sample sample(16);
  for (const int kind : {0, 1, 2}) {
    const FitGroups groups{sample.x.data(),          sample.w.data(),         16,        kind == 2 ? kLevels : nullptr,
                           kind == 0 ? -4.0f : 0.0f, kind == 0 ? 3.0f : 7.0f, kind == 1, false};
    const std::vector<float> factors = kind == 0   ? std::vector<float>{-4.5f, -4, -3.5f, 3, 3.5f}
                                       : kind == 1 ? std::vector<float>{6.5f, 7, 7.5f}
                                                   : std::vector<float>{-127, -110, 113, 120};
    FitMap map;
    fit.search(groups, factors.data(), factors.size(), 2, &map);
    for (size_t g = 0; g < kFitGroups; ++g) {
      ASSERT_TRUE(std::isfinite(map.scale[g]) && std::isfinite(map.min[g]));
      EXPECT_LE(map.min[g], 0);
      double lo = 0, hi = 0;
      for (size_t i = 0; i < 16; ++i) {
        lo = std::min(lo, double{sample.x[i * kFitGroups + g]});
        hi = std::max(hi, double{sample.x[i * kFitGroups + g]});
      }
      if (g == 3) {
        EXPECT_EQ(map.scale[g], 0);
        continue;
      }
      double best = INFINITY;
      for (const float factor : factors) {
        const double range = kind == 1 ? hi - lo : -lo >= hi ? lo : hi;
        best = std::min(best, error_of(groups, g, range / double{factor}, kind == 1 ? lo : 0));
      }
      EXPECT_LE(error_of(groups, g, map.scale[g], map.min[g]), best * (1 + 1e-5) + 1e-12) << kind << " group " << g;
    }
  }
}

NIBBLE_FOR_EVERY_TABLE(EveryBlockFit);

}  // namespace
}  // namespace nibble::kernels
