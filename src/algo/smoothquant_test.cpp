#include <gmock/gmock.h>

#include <cmath>

#include "algo/algorithm.h"
#include "algo/chain.h"
#include "algo/sample_inputs.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr QuantSpec kInt8 = {.bits = 8, .group = QuantSpec::kWholeRow};

std::vector<float> smooth(const SampleInputs& inputs, const std::vector<MatrixView<const float>>& weights,
                          const AlgorithmSettings& settings = {}) {
  const AlgorithmEntry& entry = find_algorithm("smoothquant");
  const std::vector<QuantSpec> specs(weights.size(), kInt8);
  return entry.make_equalizer(complete_settings(entry, settings))
      ->scales({weights, specs, inputs.stats, &inputs.factor});
}

TEST(SmoothQuant, IsTheFormula) {
  const SampleInputs inputs(20, 100, 1);
  const auto a = random_weights(6 * 20, 2), b = random_weights(3 * 20, 3);
  for (double alpha : {0.0, 0.5, 0.8, 1.0}) {
    const auto s = smooth(inputs, {matrix(a.data(), 6, 20), matrix(b.data(), 3, 20)}, {{"alpha", alpha}});
    for (size_t c = 0; c < 20; ++c) {
      double largest = 0;
      for (size_t r = 0; r < 6; ++r) largest = std::max(largest, std::abs(double{a[r * 20 + c]}));
      for (size_t r = 0; r < 3; ++r) largest = std::max(largest, std::abs(double{b[r * 20 + c]}));
      const double want = std::pow(double{inputs.stats.max_abs[c]}, alpha) / std::pow(largest, 1 - alpha);
      EXPECT_NEAR(s[c], want, 1e-5 * want) << alpha << " " << c;
    }
  }
}

// Mean squared error of the outputs with weights rounded per row and every token's inputs rounded, both to 8 bits;
// `one_range`: all tokens with the range of the largest.
double simulated(const SampleInputs& inputs, const std::vector<float>& w, const std::vector<float>& s,
                 bool one_range = false) {
  const size_t cols = inputs.cols, rows = w.size() / cols;
  double all = 0;
  for (size_t i = 0; i < inputs.x.size(); ++i) all = std::max(all, std::abs(double{inputs.x[i]} / double{s[i % cols]}));
  const auto round_row = [](std::vector<double> v, double range = 0) {
    double largest = range;
    for (double x : v) largest = std::max(largest, std::abs(x));
    for (double& x : v) x = std::nearbyint(x / largest * 127) * largest / 127;
    return v;
  };
  std::vector<std::vector<double>> weights;
  for (size_t r = 0; r < rows; ++r) {
    std::vector<double> row(cols);
    for (size_t c = 0; c < cols; ++c) row[c] = double{w[r * cols + c]} * double{s[c]};
    weights.push_back(round_row(row));
  }
  double error = 0;
  for (size_t t = 0; t < inputs.tokens; ++t) {
    std::vector<double> x(cols);
    for (size_t c = 0; c < cols; ++c) x[c] = inputs.x[t * cols + c] / double{s[c]};
    x = round_row(x, one_range ? all : 0);
    for (size_t r = 0; r < rows; ++r) {
      double difference = 0;
      for (size_t c = 0; c < cols; ++c)
        difference += weights[r][c] * x[c] - double{w[r * cols + c]} * inputs.x[t * cols + c];
      error += difference * difference;
    }
  }
  return error / static_cast<double>(inputs.tokens);
}

TEST(SmoothQuant, AutomaticAlphaIsNearTheBestOfASimulation) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const SampleInputs inputs(128, 200, seed);
    const auto w = random_weights(24 * 128, seed + 50);
    const std::vector<MatrixView<const float>> weights = {matrix<const float>(w.data(), 24, 128)};
    const double found = simulated(inputs, w, smooth(inputs, weights, {{"alpha", -1}}));
    double best = simulated(inputs, w, std::vector<float>(128, 1.0f));
    const double none = best;
    for (int i = 0; i <= 10; ++i)
      best = std::min(best, simulated(inputs, w, smooth(inputs, weights, {{"alpha", 0.1 * i}})));
    EXPECT_LE(found, 1.05 * best) << seed;
    EXPECT_LE(found, 0.2 * none) << seed;
  }
}

TEST(SmoothQuant, OneRangeForAllTokensAsksForAnotherAlpha) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const SampleInputs inputs(128, 200, seed);
    const auto w = random_weights(24 * 128, seed + 50);
    const std::vector<MatrixView<const float>> weights = {matrix<const float>(w.data(), 24, 128)};
    const auto error = [&](const AlgorithmSettings& settings) {
      return simulated(inputs, w, smooth(inputs, weights, settings), /*one_range=*/true);
    };
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i <= 10; ++i) best = std::min(best, error({{"alpha", 0.1 * i}}));
    EXPECT_LE(error({{"alpha", -1}, {"act_static", 1}}), 1.05 * best) << seed;
  }
}

TEST(SmoothQuant, SurvivesColumnsWithoutInputsOrWeights) {
  SampleInputs inputs(16, 40, 5);
  inputs.stats.max_abs[2] = inputs.stats.mean_square[2] = 0;
  auto w = random_weights(4 * 16, 6);
  for (size_t r = 0; r < 4; ++r) w[r * 16 + 9] = 0;
  for (double alpha : {-1.0, 0.0, 0.5, 1.0})
    for (float x : smooth(inputs, {matrix(w.data(), 4, 16)}, {{"alpha", alpha}}))
      EXPECT_TRUE(std::isfinite(x) && x > 0) << alpha;
  const std::vector<float> zeros(4 * 16);
  for (float x : smooth(inputs, {matrix(zeros.data(), 4, 16)})) EXPECT_EQ(x, 1.0f);
}

TEST(SmoothQuant, OnlyEqualizes) {
  const AlgorithmChain chain("smoothquant", {});
  EXPECT_EQ(chain.equalizers().size(), 1u);
  EXPECT_THROW(make_algorithm("smoothquant", {}), Error);
}

}  // namespace
}  // namespace nibble
