#include "kernels/block_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <vector>

#include "core/half.h"
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
        EXPECT_EQ(codes[g * 32 + i], code) << kind << " group " << g << " element " << i;
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

TEST_P(EveryBlockFit, GroupsAreLaidSideBySide) {
  const BlockFit& fit = block_fit(table());
  const Sample rows(32);  // here [kFitGroups, n]
  for (const size_t n : {size_t{16}, size_t{32}})
    for (const bool known : {false, true}) {
      FitSource source{};
      for (size_t g = 0; g < kFitGroups; ++g) {
        source.weights[g] = rows.x.data() + g * n;
        source.importance[g] = known ? rows.w.data() + g * n : nullptr;
        source.unit[g] = 0.5f + static_cast<float>(g);
      }
      std::vector<float> x(n * kFitGroups), w(x.size());
      fit.arrange(source, n, x.data(), w.data());
      for (size_t g = 0; g < kFitGroups; ++g)
        for (size_t i = 0; i < n; ++i) {
          const float weight = rows.x[g * n + i], relative = weight * source.unit[g];
          EXPECT_EQ(x[i * kFitGroups + g], weight) << "group " << g << " element " << i;
          EXPECT_EQ(w[i * kFitGroups + g],
                    known ? rows.w[g * n + i] * std::sqrt(1 + relative * relative) : 1 + std::abs(relative));
        }
    }
}

TEST_P(EveryBlockFit, BaseIsOneThatServesAllGroups) {
  const BlockFit& fit = block_fit(table());
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const auto error = [](std::span<const float> values, std::span<const float> weights, float base, float low,
                        float high) {
    double sum = 0;
    for (size_t g = 0; g < values.size(); ++g) {
      const double q =
          base == 0 ? 0 : std::nearbyint(std::clamp(double{values[g]} / double{base}, double{low}, double{high}));
      sum += double{weights[g]} * std::pow(double{values[g]} - double{base} * q, 2);
    }
    return sum;
  };
  for (const auto& [low, high] : {std::pair{0.0f, 15.0f}, {0.0f, 63.0f}, {-32.0f, 31.0f}, {-128.0f, 127.0f}})
    for (const size_t count : {size_t{8}, size_t{16}})
      for (const float size : {1e-6f, 1.0f, 1e4f}) {  // the first: subnormal halves
        std::vector<float> values(count), weights(count);
        for (float& value : values) value = size * (low == 0 ? std::abs(normal(random)) : normal(random));
        for (float& weight : weights) weight = std::abs(normal(random));
        const float base = fit.base(values.data(), weights.data(), count, low, high);
        EXPECT_EQ(f16_to_f32(f32_to_f16(base)), base);
        // The plain choice: the largest value at the end of the range.
        const float extreme =
            *std::max_element(values.begin(), values.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
        const float plain = f16_to_f32(f32_to_f16(extreme / (low == 0 ? high : low)));
        if (plain == 0) continue;
        EXPECT_LE(error(values, weights, base, low, high), error(values, weights, plain, low, high) * 1.02)
            << low << " " << size;
      }
  const std::vector<float> zeros(16), ones(16, 1.0f), nothing(16);
  EXPECT_EQ(fit.base(zeros.data(), ones.data(), 16, -32, 31), 0);
  // Groups that do not count: the largest value is still in range.
  EXPECT_EQ(fit.base(ones.data(), nothing.data(), 16, -32, 31), f16_to_f32(f32_to_f16(1.0f / 31)));
  // Values on such a grid are met, in every order of the sums.
  const std::vector<float> grid = {0.25f, 0.5f, -0.75f, 1.5f, -7.75f, 8.0f, 0, 0.25f};
  EXPECT_EQ(std::abs(fit.base(grid.data(), ones.data(), 8, -32, 31)), 0.25f);
}

// What GGUF files hold does not depend on the processor that wrote them.
TEST(BlockFit, TablesAgreeToTheBit) {
  const Sample sample(32);
  const std::vector<float> factors = {-8.5f, -8, -7.5f, 7, 6.5f};
  std::vector<std::vector<float>> results;
  for (const Table* table : available()) {
    const BlockFit& fit = block_fit(*table);
    const FitGroups groups{sample.x.data(), sample.w.data(), 32, nullptr, -8, 7, false, true};
    FitMap map;
    fit.search(groups, factors.data(), factors.size(), 2, &map);
    std::vector<float> result(map.scale, map.scale + kFitGroups);
    result.push_back(fit.base(map.scale, sample.w.data(), kFitGroups, -32, 31));
    results.push_back(result);
  }
  for (const auto& result : results) EXPECT_EQ(result, results.front());
}

NIBBLE_FOR_EVERY_TABLE(EveryBlockFit);

}  // namespace
}  // namespace nibble::kernels
