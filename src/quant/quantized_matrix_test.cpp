#include "quant/quantized_matrix.h"

#include <gmock/gmock.h>

#include <limits>

#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using namespace testing_support;

TEST(QuantizedMatrix, SymmetricCodesAreCentred) {
  QuantizedMatrix q{
      .spec = {.bits = 4, .group = 2}, .rows = 2, .cols = 3, .codes = {0, 15, 8, 7, 9, 1}, .scales = {2, -1, 0.5f, 3}};
  EXPECT_THAT(values_of(q), ElementsAre(-16, 14, 0, -0.5f, 0.5f, -21));
}

TEST(QuantizedMatrix, OneBitSymmetricIsPlusMinusOne) {
  QuantizedMatrix q{.spec = {.bits = 1, .group = 0}, .rows = 2, .cols = 2, .codes = {0, 1, 1, 0}, .scales = {3, 0.5f}};
  EXPECT_THAT(values_of(q), ElementsAre(-3, 3, 0.5f, -0.5f));
}

TEST(QuantizedMatrix, ZeroPointsAndMins) {
  QuantizedMatrix q{.spec = {.bits = 2, .group = 2, .symmetric = false},
                    .rows = 1,
                    .cols = 4,
                    .codes = {0, 3, 1, 2},
                    .scales = {2, 1}};
  q.zeros = {1, 3};
  EXPECT_THAT(values_of(q), ElementsAre(-2, 4, -2, -1));
  q.spec.mins = true;
  q.zeros.clear();
  q.mins = {-1, 10};
  EXPECT_THAT(values_of(q), ElementsAre(-1, 5, 11, 12));
}

TEST(QuantizedMatrix, TableGrids) {
  QuantizedMatrix q{.spec = {.bits = 4, .group = 2, .grid = Grid::kFP4},
                    .rows = 1,
                    .cols = 4,
                    .codes = {7, 15, 1, 5},
                    .scales = {2, -1}};
  EXPECT_THAT(values_of(q), ElementsAre(12, -12, -0.5f, -3));
}

TEST(QuantizedMatrix, GroupsByColumn) {
  QuantizedMatrix q{.spec = {.bits = 4, .group = 2}, .rows = 1, .cols = 4, .codes = {9, 9, 9, 9}, .scales = {1, 100}};
  q.group_of = {1, 0, 0, 1};
  EXPECT_THAT(values_of(q), ElementsAre(100, 1, 1, 100));
}

TEST(QuantizedMatrix, OneScalePerTensor) {
  QuantizedMatrix q{.spec = {.bits = 4, .group = 0, .per_tensor = true, .symmetric = false},
                    .rows = 2,
                    .cols = 2,
                    .codes = {0, 1, 2, 3},
                    .scales = {2}};
  q.zeros = {1};
  EXPECT_THAT(values_of(q), ElementsAre(-2, 0, 2, 4));
}

// The definition, element by element.
float defined_value(const QuantizedMatrix& q, size_t r, size_t c) {
  const size_t size = q.spec.group_size(q.cols);
  const size_t g = q.spec.per_tensor ? 0 : r * q.groups() + c / size;
  const uint8_t code = q.codes[r * q.cols + c];
  const float grid = q.spec.grid == Grid::kInt ? static_cast<float>(code) : grid_levels(q.spec.grid)[code];
  if (!q.mins.empty()) return q.scales[g] * grid + q.mins[g];
  if (q.spec.grid != Grid::kInt) return q.scales[g] * grid;
  if (q.spec.bits == 1 && q.spec.symmetric) return q.scales[g] * (2 * grid - 1);
  const float zero = q.zeros.empty() ? static_cast<float>(1 << (q.spec.bits - 1)) : static_cast<float>(q.zeros[g]);
  return q.scales[g] * (grid - zero);
}

TEST(QuantizedMatrix, EverySpecFollowsTheDefinition) {
  for (const QuantSpec& spec : every_spec()) {
    const QuantizedMatrix q = random_matrix(spec, 3, 130, 5);
    EXPECT_NO_THROW(validate(q)) << describe(spec);
    const std::vector<float> values = values_of(q);
    for (size_t r = 0; r < q.rows; ++r)
      for (size_t c = 0; c < q.cols; ++c)
        ASSERT_EQ(values[r * q.cols + c], defined_value(q, r, c)) << describe(spec) << " at " << r << ", " << c;
  }
}

TEST(QuantizedMatrix, ValidateFindsEachFault) {
  const QuantizedMatrix good = random_matrix({.bits = 4, .group = 3, .symmetric = false}, 2, 7, 1);
  const auto fault = [&](auto&& damage) {
    QuantizedMatrix q = good;
    damage(q);
    return message_of([&] { validate(q); });
  };
  EXPECT_EQ(fault([](auto&) {}), "");
  EXPECT_THAT(fault([](auto& q) { q.codes.pop_back(); }), HasSubstr("codes: found 13 values, expected 14"));
  EXPECT_THAT(fault([](auto& q) { q.codes[5] = 16; }), HasSubstr("codes: value 5 is 16, expected less than 16"));
  EXPECT_THAT(fault([](auto& q) { q.zeros[1] = 16; }), HasSubstr("zero points"));
  EXPECT_THAT(fault([](auto& q) { q.zeros.clear(); }), HasSubstr("zero points"));
  EXPECT_THAT(fault([](auto& q) { q.scales.push_back(1); }), HasSubstr("scales"));
  EXPECT_THAT(fault([](auto& q) { q.scales[3] = std::numeric_limits<float>::infinity(); }),
              HasSubstr("scales: value 3"));
  EXPECT_THAT(fault([](auto& q) { q.mins = {1}; }), HasSubstr("mins"));
  EXPECT_THAT(fault([](auto& q) { q.group_of = {0, 1, 2, 3, 0, 0, 0}; }), HasSubstr("groups of columns: value 3"));
  EXPECT_THAT(fault([](auto& q) { q.group_of = {0}; }), HasSubstr("groups of columns"));
  EXPECT_THAT(fault([](auto& q) { q.spec.bits = 12; }), HasSubstr("bits"));
}

}  // namespace
}  // namespace nibble
