#include "algo/group_scale.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "core/half.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using namespace testing_support;

std::vector<uint8_t> encoded(const QuantSpec& spec, const GroupScale& map, const std::vector<float>& weights) {
  std::vector<uint8_t> codes(weights.size());
  encode_group(spec, map, weights, codes.data());
  return codes;
}

TEST(GroupScale, ScalesAreStorableFiniteAndNeverZero) {
  EXPECT_EQ(storable_scale(1.0f / 3, DType::kF32), 1.0f / 3);
  EXPECT_EQ(storable_scale(1.0f / 3, DType::kF16), f16_to_f32(f32_to_f16(1.0f / 3)));
  EXPECT_EQ(storable_scale(-1.0f / 3, DType::kBF16), bf16_to_f32(f32_to_bf16(-1.0f / 3)));
  EXPECT_EQ(storable_scale(1e-9f, DType::kF16), 0x1p-24f);
  EXPECT_EQ(storable_scale(-1e-9f, DType::kF16), -0x1p-24f);
  EXPECT_EQ(storable_scale(1e9f, DType::kF16), 65504.0f);
  EXPECT_EQ(storable_scale(1e-45f, DType::kF32), 0x1p-126f);
  EXPECT_EQ(storable_scale(std::numeric_limits<float>::infinity(), DType::kF32), std::numeric_limits<float>::max());
  EXPECT_TRUE(std::isfinite(storable_scale(std::numeric_limits<float>::max(), DType::kBF16)));
}

TEST(GroupScale, HandWorkedRanges) {
  const auto fit = [](const QuantSpec& spec, float lo, float hi, float clip = 1.0f) {
    return fit_range(spec, lo, hi, clip);
  };
  EXPECT_EQ(fit({.bits = 4}, -7, 3).scale, 1.0f);
  EXPECT_EQ(fit({.bits = 4}, -7, 3, 0.5f).scale, 0.5f);
  EXPECT_EQ(fit({.bits = 4, .full_range = true}, -8, 3).scale, 1.0f);
  EXPECT_EQ(fit({.bits = 4, .full_range = true}, -3, 8).scale, -1.0f);
  EXPECT_EQ(fit({.bits = 4, .full_range = true}, -8, 8).scale, 1.0f);
  EXPECT_EQ(fit({.bits = 2}, -1, 5).scale, 5.0f);
  EXPECT_EQ(fit({.bits = 4, .grid = Grid::kNF4}, -3, 2).scale, 3.0f);
  EXPECT_EQ(fit({.bits = 4, .grid = Grid::kFP4}, -3, 12).scale, 2.0f);
  EXPECT_EQ(fit({.bits = 8, .grid = Grid::kFP8}, -896, 12).scale, 2.0f);

  const GroupScale asymmetric = fit({.bits = 4, .symmetric = false}, -5, 10);
  EXPECT_EQ(asymmetric.scale, 1.0f);
  EXPECT_EQ(asymmetric.zero, 5);
  const GroupScale positive = fit({.bits = 4, .symmetric = false}, 3, 15);  // 0 is in the range
  EXPECT_EQ(positive.scale, 1.0f);
  EXPECT_EQ(positive.zero, 0);
  const GroupScale negative = fit({.bits = 4, .symmetric = false}, -15, -3);
  EXPECT_EQ(negative.zero, 15);
  const GroupScale clipped = fit({.bits = 4, .symmetric = false}, -5, 10, 0.5f);
  EXPECT_EQ(clipped.scale, 0.5f);
  EXPECT_EQ(clipped.zero, 5);
}

TEST(GroupScale, ZeroIsComputedWithTheStoredScale) {
  // (hi - lo) / 255 = 100 / 255 becomes 0.392333984375 in F16; 25 / that = 63.72, as in F32. With a range at F16's
  // bottom the stored scale is far from the exact one: 20 * 2^-24 / 15 -> 2^-24, so that zero is 5, not 3.75 -> 4.
  const GroupScale map =
      fit_range({.bits = 4, .symmetric = false, .scale_dtype = DType::kF16}, -5 * 0x1p-24f, 15 * 0x1p-24f, 1.0f);
  EXPECT_EQ(map.scale, 0x1p-24f);
  EXPECT_EQ(map.zero, 5);
}

TEST(GroupScale, ExtremesNeverGiveNaN) {
  const float huge = std::numeric_limits<float>::max(), tiny = std::numeric_limits<float>::denorm_min();
  for (QuantSpec spec : every_spec()) {
    if (spec.mins || spec.grid == Grid::kIQ4NL) continue;
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      spec.scale_dtype = dtype;
      for (const std::vector<float>& weights : {std::vector<float>{0, 0, 0},
                                                {-0.0f, 0, 0},
                                                {huge, -huge, 0},
                                                {tiny, 0, -tiny},
                                                {1e-9f, -2e-9f, 0},
                                                {1e6f, 1e-6f, -1}}) {
        const GroupScale map = fit_group(spec, weights, 1.0f);
        ASSERT_TRUE(std::isfinite(map.scale) && map.scale != 0) << describe(spec);
        ASSERT_EQ(map.scale, storable_scale(map.scale, dtype));
        for (uint8_t code : encoded(spec, map, weights)) {
          ASSERT_LT(code, 1 << spec.bits);
          ASSERT_FALSE(std::isnan(map.scale * code_value(spec, map, code))) << describe(spec);
        }
      }
    }
  }
}

TEST(GroupScale, AllZeroGroupsGetScaleOne) {
  const std::vector<float> zeros(5);
  for (const QuantSpec& spec :
       {QuantSpec{.bits = 4}, QuantSpec{.bits = 4, .full_range = true}, QuantSpec{.bits = 4, .symmetric = false},
        QuantSpec{.bits = 4, .grid = Grid::kNF4}, QuantSpec{.bits = 8, .grid = Grid::kFP8}}) {
    const GroupScale map = fit_group(spec, zeros, 1.0f);
    EXPECT_EQ(map.scale, 1.0f);
    for (uint8_t code : encoded(spec, map, zeros)) EXPECT_EQ(code_value(spec, map, code), 0.0f) << describe(spec);
  }
}

TEST(GroupScale, OneBitSymmetricIsSignTimesMean) {
  const QuantSpec spec{.bits = 1};
  const std::vector<float> weights = {1, -2, 0, 5};
  const GroupScale map = fit_group(spec, weights, 1.0f);
  EXPECT_EQ(map.scale, 2.0f);
  EXPECT_THAT(encoded(spec, map, weights), ElementsAre(1, 0, 1, 1));
  EXPECT_EQ(code_value(spec, map, 0), -1.0f);
  EXPECT_EQ(code_value(spec, map, 1), 1.0f);
  EXPECT_EQ(fit_range(spec, -3, 4, 1.0f).scale, 2.0f);
}

TEST(GroupScale, RefusesWeightsThatAreNotNumbers) {
  for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()})
    for (size_t at = 0; at < 40; at += 13) {
      std::vector<float> weights(40, 1.0f);
      weights[at] = bad;
      EXPECT_THROW(fit_group({.bits = 4}, weights, 1.0f), Error);
      EXPECT_THROW(fit_group({.bits = 1}, weights, 1.0f), Error);
    }
}

TEST(GroupScale, IntegerCodesRoundTiesToEvenAndSaturate) {
  const std::vector<float> weights = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 7.4f, 7.6f, 100, -8.4f, -100};
  EXPECT_THAT(encoded({.bits = 4}, {1, 0}, weights), ElementsAre(8, 10, 10, 8, 6, 15, 15, 15, 0, 0));
  EXPECT_THAT(encoded({.bits = 4, .symmetric = false}, {1, 3}, weights), ElementsAre(3, 5, 5, 3, 1, 10, 11, 15, 0, 0));
}

TEST(GroupScale, TableCodesAreNearestWithTiesToEven) {
  // FP4: 0 .5 1 1.5 2 3 4 6; ties 0.25 -> 0, 0.75 -> 1, 1.25 -> 1, 2.5 -> 2, 3.5 -> 4, 5 -> 4.
  EXPECT_THAT(
      encoded({.bits = 4, .grid = Grid::kFP4}, {2, 0}, {0.5f, 1.5f, 2.5f, 5, 7, 10, 10.1f, 99, -1.5f, -12, -0.1f}),
      ElementsAre(0, 2, 2, 4, 6, 6, 7, 7, 10, 15, 0));
  for (Grid grid : {Grid::kNF4, Grid::kFP4, Grid::kFP4Bnb, Grid::kFP8}) {
    const QuantSpec spec{.bits = grid == Grid::kFP8 ? 8 : 4, .grid = grid};
    const auto levels = grid_levels(grid);
    Random random(4);
    for (int i = 0; i < 20000; ++i) {
      const float reach = grid == Grid::kNF4 || grid == Grid::kFP4Bnb ? 1.1f
                          : grid == Grid::kFP4                        ? 6.5f
                                               : std::exp2(static_cast<float>(random.uniform()) * 22 - 13);
      const float x = reach * static_cast<float>(2 * random.uniform() - 1);
      const uint8_t code = encoded(spec, {1, 0}, {x})[0];
      double best = std::numeric_limits<double>::infinity();
      for (float level : levels)
        if (!std::isnan(level)) best = std::min(best, std::abs(double{level} - double{x}));
      ASSERT_EQ(std::abs(double{levels[code]} - double{x}), best) << name(grid) << " " << x;
    }
    for (size_t code = 0; code < levels.size(); ++code)  // every level is its own nearest
      if (!std::isnan(levels[code])) {
        const float level = levels[code];
        ASSERT_EQ(levels[encoded(spec, {1, 0}, {level})[0]], level);
      }
  }
  // E4M3 as IEEE rounds: halfway between 1 (0x38) and 1.125 (0x39) -> even; between 1.125 and 1.25 (0x3a) -> even.
  EXPECT_THAT(encoded({.bits = 8, .grid = Grid::kFP8}, {1, 0},
                      {1.0625f, 1.1875f, -1.0625f, 449, -1e9f, 0x1p-10f, 3 * 0x1p-10f}),
              ElementsAre(0x38, 0x3a, 0xb8, 0x7e, 0xfe, 0x00, 0x02));
}

}  // namespace
}  // namespace nibble
