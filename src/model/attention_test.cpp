#include "model/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "core/threads.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

std::vector<float> random_floats(size_t count, uint64_t seed, float range = 1) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.uniform() * 2 - 1) * range;
  return values;
}

struct Case {
  size_t heads, kv_heads, dim, past, tokens, window;
};

// Queries, keys and values of a case, and a cache that holds the latter. Layer 1 of 2.
struct Filled {
  Case c;
  std::vector<float> queries, keys, values;
  SlabCache cache;

  Filled(const Case& shape, CacheType type)
      : c(shape),
        queries(random_floats(c.tokens * c.heads * c.dim, 1)),
        keys(random_floats((c.past + c.tokens) * c.kv_heads * c.dim, 2, 3)),
        values(random_floats((c.past + c.tokens) * c.kv_heads * c.dim, 3)),
        cache(2, c.kv_heads, c.dim, c.past + c.tokens, type) {}

  // Stores the next tokens; a pass that is only attended to at its end, or not at all.
  void store(size_t count) {
    cache.begin_pass(count);
    for (size_t p = cache.size(); p < cache.size() + count; ++p)
      for (size_t h = 0; h < c.kv_heads; ++h) {
        std::vector<float> key = row(keys, p, h), value = row(values, p, h);
        cache.store(1, h, p, key.data(), value.data());
      }
  }
  std::vector<float> row(const std::vector<float>& rows, size_t position, size_t head) const {
    const auto from = rows.begin() + static_cast<std::ptrdiff_t>((position * c.kv_heads + head) * c.dim);
    return {from, from + static_cast<std::ptrdiff_t>(c.dim)};
  }
  // The tokens [begin, begin + count) of the case's queries, which were just stored.
  std::vector<float> attend(size_t begin, size_t count) {
    const size_t width = c.heads * c.dim;
    std::vector<float> out(count * width, 1e30f);
    AttentionSpace space;
    nibble::attend(cache, {1, c.heads, cache.size(), c.window, 0.5f},
                   matrix(queries.data() + begin * width, count, width), space, matrix(out.data(), count, width));
    return out;
  }
  std::vector<float> run() {
    store(c.past);
    cache.grow(c.past);
    store(c.tokens);
    return attend(0, c.tokens);
  }
};

// What the cache holds of one position of a head as the token at `position` sees it, rotated back.
std::vector<double> held(const Filled& s, size_t position, size_t seen, size_t head, bool value) {
  CacheRange ranges[SlabCache::kMaxRanges];
  const size_t count = s.cache.ranges(1, position, ranges);
  for (size_t i = 0; i < count; ++i) {
    const CacheRange& range = ranges[i];
    if (seen < range.begin || seen >= range.end) continue;
    const size_t width = s.cache.width(), at = seen - range.base;
    std::vector<float> row(width);
    if (value) {
      kernels::active().kv_expand_values(range.store->values(head, at), 1, row.data());
    } else {
      std::vector<float> panel(16 * width);
      kernels::active().kv_expand_keys(range.store->keys(head, at / 16 * 16), 1, panel.data());
      for (size_t d = 0; d < width; ++d) row[d] = panel[d * 16 + at % 16];
    }
    if (s.cache.rotated()) rotate_head(row.data(), s.c.dim);
    return {row.begin(), row.begin() + static_cast<std::ptrdiff_t>(s.c.dim)};
  }
  ADD_FAILURE() << "token " << position << " has no " << seen;
  return std::vector<double>(s.c.dim);
}

// Attention of one head of one token, by definition, in double, over what the cache holds.
std::vector<double> expected(const Filled& s, size_t token, size_t head) {
  const Case& c = s.c;
  const size_t position = c.past + token, kv = head / (c.heads / c.kv_heads);
  const size_t first = c.window == 0 || position < c.window ? 0 : position - c.window + 1;
  std::vector<double> out(c.dim);
  double sum = 0;
  for (size_t j = first; j <= position; ++j) {
    const std::vector<double> key = held(s, position, j, kv, false), value = held(s, position, j, kv, true);
    double score = 0;
    for (size_t d = 0; d < c.dim; ++d) score += 0.5 * double{s.queries[(token * c.heads + head) * c.dim + d]} * key[d];
    const double weight = std::exp(score);
    sum += weight;
    for (size_t d = 0; d < c.dim; ++d) out[d] += weight * value[d];
  }
  for (double& o : out) o /= sum;
  return out;
}

class AttentionTest : public testing::TestWithParam<CacheType> {};

TEST_P(AttentionTest, IsItsDefinition) {
  std::vector<Case> cases = {{1, 1, 2, 0, 1, 0},     {4, 2, 16, 0, 3, 0},     {9, 3, 64, 0, 70, 0},
                             {6, 2, 20, 11, 37, 0},  {8, 1, 32, 300, 45, 0},  {4, 4, 80, 5, 33, 1},
                             {4, 2, 16, 40, 60, 8},  {4, 2, 16, 40, 1, 8},    {2, 2, 48, 0, 200, 150},
                             {3, 1, 34, 600, 9, 0},  {32, 8, 128, 17, 5, 16}, {5, 1, 6, 255, 5, 0},
                             {4, 2, 16, 1000, 1, 0}, {150, 1, 4, 3, 6, 5},    {2, 1, 96, 700, 8, 300}};
  for (size_t tokens = 1; tokens <= 70; tokens += tokens < 12 ? 1 : 7)
    cases.push_back({3, 1, 64, tokens * 5 % 44, tokens, 0});
  for (const Case& c : cases) {
    Filled s(c, GetParam());
    const std::vector<float> out = s.run();
    for (size_t t = 0; t < c.tokens; t += 1 + c.tokens / 9)
      for (size_t h = 0; h < c.heads; h += 1 + c.heads / 4) {
        const auto want = expected(s, t, h);
        double worst = 0;
        for (size_t d = 0; d < c.dim; ++d)
          worst = std::max(worst, std::abs(want[d] - double{out[(t * c.heads + h) * c.dim + d]}));
        ASSERT_LT(worst, 1e-5) << c.heads << "/" << c.kv_heads << " x " << c.dim << ", " << c.past << " + " << c.tokens
                               << ", window " << c.window << ", token " << t;
      }
  }
}

// Rounding of a row stored by each type, relative to the largest element of a block (kQ4: of its root mean square).
TEST_P(AttentionTest, CacheHoldsTheRows) {
  const double bounds[] = {0, 0x1p-11, 0x1p-8, 0.5 / 127 + 0x1p-10, 0.18};
  for (size_t dim = 1; dim <= 70; ++dim) {
    Filled s({1, 1, dim, 0, 70, 0}, GetParam());
    s.store(70);
    s.cache.grow(70);
    for (const size_t seen : {0u, 3u, 4u, 17u, 30u, 40u, 69u})
      for (const bool value : {false, true}) {
        const auto want = s.row(value ? s.values : s.keys, seen, 0);
        const auto got = held(s, 69, seen, 0, value);
        const bool exact = GetParam() == CacheType::kQ4 && (seen < 4 || seen > 69 - 32);
        double error = 0, square = 0, largest = 0;
        for (size_t d = 0; d < dim; ++d) {
          error += std::pow(got[d] - double{want[d]}, 2), square += double{want[d]} * double{want[d]};
          largest = std::max(largest, std::abs(double{want[d]}));
        }
        // Of the root mean squares; a block of 32 normally distributed values in 4 bits: 0.076.
        const double bound = exact ? 0x1p-10 : bounds[static_cast<size_t>(GetParam())];
        const double size =
            GetParam() == CacheType::kQ8 ? largest * std::sqrt(static_cast<double>(dim)) : std::sqrt(square);
        ASSERT_LE(std::sqrt(error), bound * size) << dim << " columns, position " << seen;
        if (GetParam() == CacheType::kQ4 && !exact && dim == 64) {
          ASSERT_GT(std::sqrt(error), 0.01 * std::sqrt(square)) << "should not be exact";
        }
      }
  }
}

// Whatever the passes, a token sees the same. 300 tokens also fill the f16 rows of a kQ4 cache twice.
TEST_P(AttentionTest, OnePassIsTokenByToken) {
  const Case c = {3, 1, 32, 0, 300, 0};
  Filled whole(c, GetParam());
  const std::vector<float> want = whole.run();
  for (const size_t step : {1u, 7u, 64u}) {
    Filled steps(c, GetParam());
    for (size_t t = 0; t < c.tokens; t += step) {
      const size_t count = std::min(step, c.tokens - t);
      steps.store(count);
      const std::vector<float> got = steps.attend(t, count);
      steps.cache.grow(count);
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[t * c.heads * c.dim + i], 3e-6) << "token " << t;
    }
  }
}

TEST_P(AttentionTest, ThreadsDoNotMatter) {
  for (const size_t tokens : {1u, 5u, 60u}) {
    const Case c = {6, 2, 64, 900, tokens, 0};
    set_thread_count(1);
    const std::vector<float> want = Filled(c, GetParam()).run();
    set_thread_count(4);
    EXPECT_EQ(Filled(c, GetParam()).run(), want);
    set_thread_count(0);
  }
}

// A text read again from `kept` on gives what it gave, as long as the f16 rows reach back far enough.
TEST_P(AttentionTest, TruncationForgetsOnlyTheRest) {
  const Case c = {2, 1, 64, 0, 200, 0};
  Filled first(c, GetParam());
  const std::vector<float> want = first.run();
  first.cache.grow(c.tokens);
  for (const size_t kept : {199u, 60u, 0u}) {
    first.cache.truncate(kept);
    EXPECT_EQ(first.cache.size(), kept);
    first.store(c.tokens - kept);
    const std::vector<float> got = first.attend(kept, c.tokens - kept);
    first.cache.grow(c.tokens - kept);
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[kept * c.heads * c.dim + i], 3e-6) << kept;
  }
}

// Far back, a kQ4 cache has only the 4 bits: the next tokens see these, and themselves exactly.
TEST(SlabCache, TruncationIntoTheQuantizedPart) {
  Filled s({1, 1, 64, 0, 400, 0}, CacheType::kQ4);
  for (size_t t = 0; t < 400; ++t) s.store(1), s.cache.grow(1);
  s.cache.truncate(100);
  s.store(1);
  CacheRange ranges[SlabCache::kMaxRanges];
  s.cache.grow(1);
  ASSERT_EQ(s.cache.ranges(1, 100, ranges), 3u);
  EXPECT_EQ(ranges[0].end, 4u);
  EXPECT_EQ(ranges[1].begin, 4u);
  EXPECT_EQ(ranges[1].end, 100u);
  EXPECT_EQ(ranges[2].begin, 100u);
  EXPECT_EQ(ranges[2].end, 101u);
  EXPECT_LE(ranges[2].base, 100u);
  s.store(50);
  s.cache.grow(50);
  s.cache.ranges(1, 150, ranges);
  EXPECT_EQ(ranges[2].begin, 119u);
}

INSTANTIATE_TEST_SUITE_P(CacheTypes, AttentionTest, testing::ValuesIn(kCacheTypes),
                         [](const auto& param) { return std::string(name(param.param)); });

TEST(SlabCache, TruncatesAndRefusesTheImpossible) {
  SlabCache cache(1, 1, 4, 10, CacheType::kF16);
  cache.grow(7);
  cache.truncate(9);
  EXPECT_EQ(cache.size(), 7u);
  cache.truncate(2);
  EXPECT_EQ(cache.size(), 2u);
  for (const CacheType type : kCacheTypes) {
    EXPECT_THROW(SlabCache(1, 1024, 8192, size_t{1} << 45, type), Error);
    EXPECT_THROW(SlabCache(1, 1024, 8192, std::numeric_limits<size_t>::max(), type), Error);
  }
}

TEST(CacheType, Names) {
  for (const CacheType type : kCacheTypes) EXPECT_EQ(parse_cache_type(name(type)), type);
  EXPECT_THROW(parse_cache_type("q5"), Error);
}

TEST(RotateHead, IsItsOwnInverseAndKeepsLengths) {
  for (size_t dim = 1; dim <= 160; ++dim) {
    const auto before = random_floats(dim, dim);
    auto head = before;
    rotate_head(head.data(), dim);
    double length = 0, want = 0;
    for (size_t d = 0; d < dim; ++d) {
      length += double{head[d]} * double{head[d]};
      want += double{before[d]} * double{before[d]};
    }
    EXPECT_NEAR(length, want, 1e-5 * want) << dim;
    rotate_head(head.data(), dim);
    for (size_t d = 0; d < dim; ++d) ASSERT_NEAR(head[d], before[d], 2e-6) << dim;
  }
}

}  // namespace
}  // namespace nibble
