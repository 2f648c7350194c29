#include "quant/stats_tree.h"

#include <gtest/gtest.h>

#include "core/random.h"
#include "core/test_errors.h"
#include "quant/input_collector.h"

namespace nibble {
namespace {

constexpr size_t kCols = 9;

// Documents of a few tokens, so that a leaf is quickly full.
std::vector<std::vector<float>> documents(size_t count) {
  Random random(11);
  std::vector<std::vector<float>> result(count);
  for (size_t d = 0; d < count; ++d)
    for (size_t i = 0; i < (1 + d % 3) * kCols; ++i) result[d].push_back(static_cast<float>(random.uniform() * 8 - 3));
  return result;
}

// Documents [begin, end); begin is the first of a leaf.
InputCollector collect(const std::vector<std::vector<float>>& docs, size_t begin, size_t end) {
  InputCollector collector(kCols, true, false, begin / InputCollector::kLeafChunks);
  for (size_t d = begin; d < end; ++d) {
    const auto x = matrix(docs[d].data(), docs[d].size() / kCols, kCols);
    std::vector<float> wanted = docs[d];
    for (float& v : wanted) v *= 1.25f;
    collector.add(x, matrix<const float>(wanted.data(), x.rows, kCols));
  }
  return collector;
}

void expect_equal(const InputStats& a, const InputStats& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.gram, b.gram);
  EXPECT_EQ(a.cross, b.cross);
  EXPECT_EQ(a.mean_square, b.mean_square);
  EXPECT_EQ(a.mean_abs, b.mean_abs);
  EXPECT_EQ(a.max_abs, b.max_abs);
}

TEST(StatsTree, PartsMergeToTheBitsOfTheWhole) {
  const size_t leaf = InputCollector::kLeafChunks;
  for (const size_t count : {leaf, leaf + 5, 3 * leaf, 6 * leaf + 7, 8 * leaf}) {
    const auto docs = documents(count);
    const InputStats whole = collect(docs, 0, count).finish();
    for (size_t cut = 0; cut <= count; cut += leaf) {
      StatsTree a = collect(docs, 0, cut).take(), b = collect(docs, cut, count).take();
      if (cut == 0) a = StatsTree();
      if (cut == count) b = StatsTree();
      b.merge(std::move(a));  // the later part first
      expect_equal(whole, b.finish());
    }
    // Each leaf by itself, last to first.
    StatsTree tree;
    for (size_t l = (count + leaf - 1) / leaf; l-- > 0;)
      tree.merge(collect(docs, l * leaf, std::min(count, (l + 1) * leaf)).take());
    EXPECT_TRUE(!tree.empty());
    expect_equal(whole, tree.finish());
  }
}

TEST(StatsTree, AgreesWithDoubleSums) {
  const auto docs = documents(5 * InputCollector::kLeafChunks + 3);
  const InputStats stats = collect(docs, 0, docs.size()).finish();
  std::vector<double> gram(kCols * kCols), cross(kCols * kCols);
  double tokens = 0;
  for (const auto& doc : docs)
    for (size_t t = 0; t < doc.size(); t += kCols, ++tokens)
      for (size_t r = 0; r < kCols; ++r)
        for (size_t c = 0; c < kCols; ++c) {
          const double product = double{doc[t + r]} * double{doc[t + c]};
          gram[r * kCols + c] += product;
          cross[r * kCols + c] += double{doc[t + r] * 1.25f - doc[t + r]} * double{doc[t + c]};
        }
  ASSERT_EQ(static_cast<double>(stats.tokens), tokens);
  for (size_t r = 0; r < kCols; ++r)
    for (size_t c = 0; c < kCols; ++c) {
      if (c <= r) {
        EXPECT_NEAR(stats.gram[r * (r + 1) / 2 + c], gram[r * kCols + c] / tokens, 1e-5);
      }
      EXPECT_NEAR(stats.cross[r * kCols + c], cross[r * kCols + c] / tokens, 1e-5);
    }
}

TEST(StatsTree, RefusesLeavesThatOverlapAndOtherShapes) {
  const auto docs = documents(2 * InputCollector::kLeafChunks);
  StatsTree tree = collect(docs, 0, docs.size()).take();
  EXPECT_EQ(error_kind([&] { tree.merge(collect(docs, 32, 40).take()); }), ErrorKind::kUsage);
  InputCollector other(kCols, false, false, 7);
  other.add(matrix(docs[0].data(), 1, kCols));
  EXPECT_EQ(error_kind([&] { tree.merge(other.take()); }), ErrorKind::kUsage);
}

TEST(StatsTree, FewMatricesWait) {
  EXPECT_EQ(waiting_matrices(1), 0U);
  EXPECT_EQ(waiting_matrices(2), 2U);
  EXPECT_EQ(waiting_matrices(4), 3U);
  EXPECT_EQ(waiting_matrices(127), 7U);
}

}  // namespace
}  // namespace nibble
