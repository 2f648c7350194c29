#include "quant/spec.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/error.h"

namespace nibble {
namespace {

TEST(Spec, GroupsCoverTheRow) {
  EXPECT_EQ((QuantSpec{.group = 64}.groups(128)), 2u);
  EXPECT_EQ((QuantSpec{.group = 64}.groups(129)), 3u);
  EXPECT_EQ((QuantSpec{.group = 64}.groups(1)), 1u);
  EXPECT_EQ((QuantSpec{.group = 64}.groups(0)), 1u);
  EXPECT_EQ((QuantSpec{.group = QuantSpec::kWholeRow}.groups(129)), 1u);
  EXPECT_EQ((QuantSpec{.group = QuantSpec::kWholeRow}.group_size(129)), 129u);
}

TEST(Spec, FP8LevelsAreE4M3) {
  const auto levels = grid_levels(Grid::kFP8);
  ASSERT_EQ(levels.size(), 256u);
  EXPECT_EQ(levels[0x00], 0.0f);
  EXPECT_EQ(levels[0x01], 0x1p-9f);      // smallest subnormal
  EXPECT_EQ(levels[0x07], 7 * 0x1p-9f);  // largest subnormal
  EXPECT_EQ(levels[0x08], 0x1p-6f);      // smallest normal
  EXPECT_EQ(levels[0x38], 1.0f);
  EXPECT_EQ(levels[0x39], 1.125f);
  EXPECT_EQ(levels[0x7e], 448.0f);
  EXPECT_EQ(levels[0xfe], -448.0f);
  EXPECT_TRUE(std::isnan(levels[0x7f]) && std::isnan(levels[0xff]));
  for (size_t i = 1; i < 0x7f; ++i) EXPECT_GT(levels[i], levels[i - 1]);
}

TEST(Spec, FourBitTables) {
  const auto nf4 = grid_levels(Grid::kNF4);
  ASSERT_EQ(nf4.size(), 16u);
  EXPECT_EQ(nf4[0], -1.0f);
  EXPECT_EQ(nf4[7], 0.0f);
  EXPECT_EQ(nf4[15], 1.0f);
  for (size_t i = 1; i < 16; ++i) EXPECT_GT(nf4[i], nf4[i - 1]);
  EXPECT_THAT(std::vector<float>(grid_levels(Grid::kFP4).begin(), grid_levels(Grid::kFP4).begin() + 8),
              testing::ElementsAre(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f));
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(grid_levels(Grid::kFP4)[i + 8], -grid_levels(Grid::kFP4)[i]);
  // As the comments of bitsandbytes' kernels name them.
  const auto bnb = grid_levels(Grid::kFP4Bnb);
  const float named[] = {0, 0.005208333333f, 0.66666667f, 1, 0.33333333f, 0.5f, 0.16666667f, 0.25f};
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(bnb[i], named[i]);
    EXPECT_EQ(bnb[i + 8], -named[i]);
  }
  EXPECT_TRUE(grid_levels(Grid::kInt).empty());
}

TEST(Spec, NamesRoundTrip) {
  for (Grid grid : {Grid::kInt, Grid::kNF4, Grid::kFP4, Grid::kFP8, Grid::kIQ4NL, Grid::kFP4Bnb})
    EXPECT_EQ(parse_grid(name(grid)), grid);
  EXPECT_THROW(parse_grid("nf5"), Error);
}

TEST(Spec, Describes) {
  EXPECT_EQ(describe({.bits = 4, .group = 64}), "int4 sym g64");
  EXPECT_EQ(describe({.bits = 4, .group = 32, .symmetric = false}), "int4 asym g32");
  EXPECT_EQ(describe({.bits = 4, .group = 32, .symmetric = false, .mins = true}), "int4 min g32");
  EXPECT_EQ(describe({.bits = 3, .group = 0, .full_range = true}), "int3 sym full-range per channel");
  EXPECT_EQ(describe({.bits = 4, .group = 64, .grid = Grid::kNF4}), "nf4 g64");
  EXPECT_EQ(describe({.bits = 8, .group = 0, .grid = Grid::kFP8}), "fp8 per channel");
  EXPECT_EQ(describe({.bits = 8, .group = 0, .per_tensor = true}), "int8 sym per tensor");
}

TEST(Spec, CountsStoredBits) {
  EXPECT_EQ(stored_bits({.bits = 4, .group = 32}, 2, 80), 2u * (80 * 4 + 3 * 32));
  EXPECT_EQ(stored_bits({.bits = 3, .group = 32, .symmetric = false, .scale_dtype = DType::kF16}, 2, 64),
            2u * (64 * 3 + 2 * (16 + 3)));
  EXPECT_EQ(stored_bits({.bits = 4, .group = 32, .symmetric = false, .scale_dtype = DType::kBF16, .mins = true}, 1, 32),
            32u * 4 + 16 + 16);
  EXPECT_EQ(stored_bits({.bits = 8, .group = 0, .per_tensor = true}, 10, 10), 800u + 32);
}

TEST(Spec, RefusesContradictions) {
  const QuantSpec wrong[] = {
      {.bits = 0},
      {.bits = 9},
      {.bits = 3, .grid = Grid::kNF4},
      {.bits = 4, .grid = Grid::kFP8},
      {.bits = 4, .group = 64, .per_tensor = true},
      {.bits = 4, .symmetric = false, .grid = Grid::kNF4},
      {.bits = 4, .symmetric = false, .full_range = true},
      {.bits = 4, .full_range = true, .grid = Grid::kFP4},
      {.bits = 4, .mins = true},
      {.bits = 4, .scale_dtype = DType::kI8},
  };
  for (const QuantSpec& spec : wrong) EXPECT_THROW(spec.validate(), Error) << describe(spec);
  EXPECT_NO_THROW((QuantSpec{}.validate()));
}

}  // namespace
}  // namespace nibble
