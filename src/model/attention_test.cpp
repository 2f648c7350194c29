#include "model/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"

namespace nibble {
namespace {

std::vector<float> random_floats(size_t count, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.uniform() * 2 - 1);
  return values;
}

struct Case {
  size_t heads, kv_heads, dim, past, tokens, window;
};

// Attention of one head of one token, by definition, in double.
std::vector<double> expected(const Case& c, const std::vector<float>& q, const std::vector<float>& k,
                             const std::vector<float>& v, size_t token, size_t head) {
  const size_t position = c.past + token, kv = head / (c.heads / c.kv_heads);
  const size_t first = c.window == 0 || position < c.window ? 0 : position - c.window + 1;
  std::vector<double> weights, out(c.dim);
  double sum = 0;
  for (size_t j = first; j <= position; ++j) {
    double score = 0;
    for (size_t d = 0; d < c.dim; ++d)
      score += double{q[(token * c.heads + head) * c.dim + d]} * double{k[(j * c.kv_heads + kv) * c.dim + d]};
    weights.push_back(std::exp(score));
    sum += weights.back();
  }
  for (size_t j = first; j <= position; ++j)
    for (size_t d = 0; d < c.dim; ++d)
      out[d] += weights[j - first] / sum * double{v[(j * c.kv_heads + kv) * c.dim + d]};
  return out;
}

class Attention : public testing::TestWithParam<DType> {};

TEST_P(Attention, IsItsDefinition) {
  const DType dtype = GetParam();
  const auto rounded = [&](float value) {
    if (dtype == DType::kF16) return f16_to_f32(f32_to_f16(value));
    if (dtype == DType::kBF16) return bf16_to_f32(f32_to_bf16(value));
    return value;
  };
  const Case cases[] = {{1, 1, 2, 0, 1, 0},     {4, 2, 16, 0, 3, 0},     {4, 2, 16, 0, 4, 0},   {9, 3, 64, 0, 70, 0},
                        {6, 2, 20, 11, 37, 0},  {8, 1, 32, 300, 45, 0},  {4, 4, 80, 5, 33, 1},  {4, 2, 16, 40, 60, 8},
                        {4, 2, 16, 40, 1, 8},   {2, 2, 48, 0, 300, 200}, {3, 1, 34, 600, 9, 0}, {32, 8, 128, 17, 5, 16},
                        {5, 1, 6, 255, 260, 0}, {4, 2, 16, 1000, 1, 0},  {150, 1, 4, 3, 6, 5}};
  for (const Case& c : cases) {
    const size_t seen = c.past + c.tokens;
    const auto q = random_floats(c.tokens * c.heads * c.dim, 1);
    auto k = random_floats(seen * c.kv_heads * c.dim, 2), v = random_floats(seen * c.kv_heads * c.dim, 3);
    for (float& value : k) value = rounded(value * 3);
    for (float& value : v) value = rounded(value);
    SlabCache cache(2, c.kv_heads, c.dim, seen, dtype);
    for (size_t j = 0; j < seen; ++j)
      for (size_t h = 0; h < c.kv_heads; ++h) {
        store_row(cache.keys(1, h), j, k.data() + (j * c.kv_heads + h) * c.dim);
        store_row(cache.values(1, h), j, v.data() + (j * c.kv_heads + h) * c.dim);
      }
    std::vector<float> out(q.size(), 1e30f);
    attend(cache, 1, c.past, c.heads, c.window, matrix(q.data(), c.tokens, c.heads * c.dim),
           matrix(out.data(), c.tokens, c.heads * c.dim));
    double worst = 0;
    for (size_t t = 0; t < c.tokens; ++t)
      for (size_t h = 0; h < c.heads; ++h) {
        const auto want = expected(c, q, k, v, t, h);
        for (size_t d = 0; d < c.dim; ++d)
          worst = std::max(worst, std::abs(want[d] - double{out[(t * c.heads + h) * c.dim + d]}));
      }
    EXPECT_LT(worst, 1e-5) << c.heads << "/" << c.kv_heads << " x " << c.dim << ", " << c.past << " + " << c.tokens
                           << ", window " << c.window;
  }
}

INSTANTIATE_TEST_SUITE_P(CacheTypes, Attention, testing::Values(DType::kF32, DType::kF16, DType::kBF16),
                         [](const auto& param) { return std::string(nibble::info(param.param).name); });

TEST(SlabCache, TruncatesAndRefusesTheImpossible) {
  SlabCache cache(1, 1, 4, 10, DType::kF16);
  cache.grow(7);
  cache.truncate(9);
  EXPECT_EQ(cache.size(), 7u);
  cache.truncate(2);
  EXPECT_EQ(cache.size(), 2u);
  EXPECT_THROW(SlabCache(1, 1, 4, 10, DType::kQ8_0), Error);
  EXPECT_THROW(SlabCache(1, 1024, 8192, size_t{1} << 45, DType::kF32), Error);
}

}  // namespace
}  // namespace nibble
