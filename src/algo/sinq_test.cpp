#include <gmock/gmock.h>

#include <cmath>

#include "algo/algorithm.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;

std::vector<float> sinq(const std::vector<MatrixView<const float>>& weights, size_t group) {
  const AlgorithmEntry& entry = find_algorithm("sinq");
  const std::vector<QuantSpec> specs(weights.size(), {.bits = 4, .group = group});
  InputStats stats;
  stats.cols = weights[0].cols;
  return entry.make_equalizer(complete_settings(entry, {}))->scales({weights, specs, stats});
}

TEST(Sinq, MatchesTheNumpyReference) {
  const auto file = golden("sinq_golden.safetensors");
  const auto w = values<float>(file.at("weight"));
  for (size_t group : {size_t{24}, size_t{56}}) {
    const auto want = values<float>(file.at(cat("scales.", group)));
    const auto check = [&](const std::vector<float>& got) {
      ASSERT_EQ(got.size(), want.size());
      for (size_t c = 0; c < want.size(); ++c) EXPECT_NEAR(got[c], want[c], 1e-4f * want[c]) << group << " " << c;
    };
    check(sinq({matrix(w.data(), 30, 56)}, group));
    // Linears that share an input count as one.
    check(sinq({matrix(w.data(), 11, 56), matrix(w.data() + 11 * 56, 19, 56)}, group));
  }
  EXPECT_EQ(sinq({matrix(w.data(), 30, 56)}, 0), sinq({matrix(w.data(), 30, 56)}, 56));
}

TEST(Sinq, DoesNotDependOnTheUnit) {
  const auto w = values<float>(golden("sinq_golden.safetensors").at("weight"));
  auto tiny = w;
  for (float& x : tiny) x *= 0x1p-40f;
  const auto a = sinq({matrix(w.data(), 30, 56)}, 24), b = sinq({matrix(tiny.data(), 30, 56)}, 24);
  for (size_t c = 0; c < a.size(); ++c) EXPECT_NEAR(a[c], b[c], 1e-5f * a[c]);
}

TEST(Sinq, SurvivesZerosAndSingleRows) {
  const std::vector<float> zeros(4 * 20);
  for (float x : sinq({matrix(zeros.data(), 4, 20)}, 8)) EXPECT_EQ(x, 1.0f);
  std::vector<float> w(4 * 20, 0.5f);
  w[3] = -2;
  for (size_t rows : {size_t{1}, size_t{4}})
    for (size_t group : {size_t{1}, size_t{8}, size_t{0}})
      for (float x : sinq({matrix(w.data(), rows, 20)}, group)) EXPECT_TRUE(std::isfinite(x) && x > 0);
}

}  // namespace
}  // namespace nibble
