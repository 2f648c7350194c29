#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "algo/algorithm.h"
#include "algo/scale_candidates.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;

std::vector<float> heavy_tailed(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> w(n);
  for (float& x : w) {
    const double u = 2 * random.uniform() - 1;
    x = static_cast<float>(0.02 * u / (1.05 - std::abs(u)));
  }
  return w;
}

// Weighted error of each group, importances |w|^power / max |w|^power.
std::vector<double> group_errors(const QuantizedMatrix& q, const std::vector<float>& w, double power) {
  const auto back = values_of(q);
  std::vector<double> out;
  const size_t size = q.spec.group_size(q.cols);
  for (size_t r = 0; r < q.rows; ++r)
    for (size_t begin = 0; begin < q.cols; begin += size) {
      double error = 0, largest = 0;
      for (size_t c = begin; c < std::min(q.cols, begin + size); ++c) {
        const double x = double{w[r * q.cols + c]}, d = double{back[r * q.cols + c]} - x;
        error += std::pow(std::abs(x), power) * d * d;
        largest = std::max(largest, std::abs(x));
      }
      out.push_back(error / std::pow(largest, power));
    }
  return out;
}

QuantizedMatrix run(std::string_view algorithm, const std::vector<float>& w, size_t rows, const QuantSpec& spec,
                    const AlgorithmSettings& settings = {}) {
  return make_algorithm(algorithm, settings)->quantize({matrix(w.data(), rows, w.size() / rows), spec});
}

TEST(Search, IsNeverWorseThanRoundToNearest) {
  const size_t rows = 8;
  const auto w = heavy_tailed(rows * 130, 1);
  for (const QuantSpec& spec : every_spec()) {
    if (spec.mins || spec.per_tensor) continue;
    for (double power : {0.0, 1.0, 2.0}) {
      const auto searched = group_errors(run("search", w, rows, spec, {{"power", power}}), w, power);
      const auto nearest = group_errors(run("rtn", w, rows, spec), w, power);
      for (size_t g = 0; g < searched.size(); ++g)
        ASSERT_LE(searched[g], nearest[g] * 1.00001) << describe(spec) << " power " << power;
    }
  }
}

TEST(Search, IsAtLeastAsGoodAsTheExhaustiveReference) {
  const auto file = golden("quant_golden.safetensors");
  const auto w = values<float>(file.at("weight"));
  for (int bits : {2, 3, 4})
    for (bool symmetric : {true, false}) {
      const QuantSpec spec{.bits = bits, .group = 32, .symmetric = symmetric};
      const auto want = values<float>(file.at(cat("search.", symmetric ? "sym" : "asym", ".", bits, ".32.error")));
      // Without refits it is that very search (candidates are compared in float)...
      const auto plain = group_errors(run("search", w, 4, spec, {{"refits", 0}}), w, 1);
      // ... but for the round-to-nearest map, which it also tries; with refits it can only gain.
      const auto refined = group_errors(run("search", w, 4, spec), w, 1);
      for (size_t g = 0; g < want.size(); ++g) {
        EXPECT_LE(plain[g], double{want[g]} * 1.0001) << bits << symmetric << " group " << g;
        EXPECT_LE(refined[g], plain[g] * 1.000001) << bits << symmetric << " group " << g;
      }
    }
}

TEST(Search, ClearlyBeatsRoundToNearestAtFewBits) {
  const auto w = heavy_tailed(64 * 256, 2);
  const auto total = [&](const char* algorithm, const QuantSpec& spec) {
    double sum = 0;
    for (double error : group_errors(run(algorithm, w, 64, spec), w, 1)) sum += error;
    return sum;
  };
  for (int bits : {2, 3, 4})
    for (bool symmetric : {true, false}) {
      const QuantSpec spec{.bits = bits, .group = 64, .symmetric = symmetric};
      // Zero points already fit both ends, so there is less to gain.
      EXPECT_LT(total("search", spec), (symmetric ? 0.85 : 0.93) * total("rtn", spec)) << bits << symmetric;
    }
}

// Every code word of a group of five weights, each with its own best scale: nothing can be better.
double brute_force(const std::vector<float>& w, int bits, bool one_bit_signs) {
  const int codes = 1 << bits;
  double best = std::numeric_limits<double>::infinity();
  double largest = 0;
  for (float x : w) largest = std::max(largest, std::abs(double{x}));
  for (int word = 0; word < static_cast<int>(std::pow(codes, w.size())); ++word) {
    double product = 0, square = 0;
    int rest = word;
    std::vector<double> u;
    for (float x : w) {
      const int code = rest % codes;
      rest /= codes;
      u.push_back(one_bit_signs ? 2 * code - 1 : code - codes / 2);
      product += std::abs(double{x}) * double{x} * u.back();
      square += std::abs(double{x}) * u.back() * u.back();
    }
    const double scale = square > 0 ? product / square : 0;
    double error = 0;
    for (size_t i = 0; i < w.size(); ++i) error += std::abs(double{w[i]}) * std::pow(double{w[i]} - scale * u[i], 2);
    best = std::min(best, error / largest);
  }
  return best;
}

TEST(Search, OneBitSymmetricIsOptimal) {
  for (uint64_t seed = 1; seed < 40; ++seed) {
    const auto w = heavy_tailed(5, seed);
    const double got = group_errors(run("search", w, 1, {.bits = 1, .group = 0}), w, 1)[0];
    EXPECT_NEAR(got, brute_force(w, 1, true), 1e-5 * got) << seed;
  }
}

TEST(Search, TwoBitSymmetricIsNearTheOptimum) {
  double got = 0, best = 0;
  for (uint64_t seed = 1; seed < 40; ++seed) {
    const auto w = heavy_tailed(5, seed);
    const double error = group_errors(run("search", w, 1, {.bits = 2, .group = 0}), w, 1)[0];
    const double bound = brute_force(w, 2, false);
    EXPECT_GE(error, bound * 0.99999) << seed;
    got += error;
    best += bound;
  }
  EXPECT_LE(got, 1.05 * best);
}

TEST(Search, HandWorkedOutlier) {
  // Round to nearest gives up everything for the outlier: scale 1, all else 0. Unweighted, a smaller scale wins.
  const std::vector<float> w = {1, 0.49f, 0.49f, 0.49f, 0.49f, -0.49f, 0.49f, 0.49f, 0.49f, 0.49f, -0.49f, 0.49f};
  const QuantSpec spec{.bits = 2, .group = 0};
  EXPECT_GT(group_errors(run("rtn", w, 1, spec), w, 0)[0], 2.0);
  // Exact: a negative scale of -1/2 has the levels 1, 1/2, 0, -1/2; least squares makes it even better.
  EXPECT_LT(group_errors(run("search", w, 1, spec, {{"power", 0}}), w, 0)[0], 11 * 0.01 * 0.01 * 1.001);
}

TEST(Search, SignedScalesCanBeTurnedOff) {
  const auto w = heavy_tailed(16 * 64, 7);
  const QuantSpec spec{.bits = 3, .group = 32};
  const auto signs = [&](double option) {
    const auto q = run("search", w, 16, spec, {{"signed", option}});
    return std::any_of(q.scales.begin(), q.scales.end(), [](float s) { return s < 0; });
  };
  EXPECT_TRUE(signs(1));
  EXPECT_FALSE(signs(0));
}

TEST(Search, ScalesAreThoseTheFileHolds) {
  const auto w = heavy_tailed(4 * 64, 9);
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    const auto q = run("search", w, 4, {.bits = 3, .group = 16, .symmetric = false, .scale_dtype = dtype});
    for (float scale : q.scales) EXPECT_EQ(scale, storable_scale(scale, dtype));
  }
}

TEST(Search, SurvivesTinyAndHugeWeights) {
  for (float unit : {1e-44f, 1e-30f, 1e-10f, 1e10f, 1e30f, 3e38f}) {
    auto w = heavy_tailed(64, 3);
    for (float& x : w) x *= unit;
    for (const QuantSpec& spec : every_spec()) {
      if (spec.mins || spec.per_tensor) continue;
      const auto q = run("search", w, 1, spec);
      EXPECT_NO_THROW(validate(q)) << describe(spec) << " " << unit;
    }
  }
}

}  // namespace
}  // namespace nibble
