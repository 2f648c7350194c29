#include <gmock/gmock.h>

#include <cmath>

#include "algo/algorithm.h"
#include "algo/chain.h"
#include "algo/equalize.h"
#include "algo/group_scale.h"
#include "algo/sample_inputs.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;

std::vector<float> awq_scales(const SampleInputs& inputs, const std::vector<float>& w, const QuantSpec& spec,
                              const AlgorithmSettings& settings = {}) {
  const AlgorithmEntry& awq = find_algorithm("awq");
  const MatrixView<const float> weight = matrix(w.data(), w.size() / inputs.cols, inputs.cols);
  return awq.make_equalizer(complete_settings(awq, settings))
      ->scales({{&weight, 1}, {&spec, 1}, inputs.stats, &inputs.factor});
}

// The output error of W rounded by `algorithm` after scaling by s, in double and from the inputs themselves.
double error_of(const SampleInputs& inputs, const std::vector<float>& w, const QuantSpec& spec,
                std::string_view algorithm, const std::vector<float>& s) {
  std::vector<float> scaled = w;
  InputFactor known;
  for (size_t i = 0; i < w.size(); ++i) scaled[i] *= s[i % inputs.cols];
  for (size_t c = 0; c < inputs.cols; ++c) known.importance.push_back(inputs.stats.mean_square[c] / (s[c] * s[c]));
  const auto q =
      make_algorithm(algorithm, {})
          ->quantize({matrix<const float>(scaled.data(), w.size() / inputs.cols, inputs.cols), spec, {}, &known});
  std::vector<float> difference = values_of(q);
  for (size_t i = 0; i < w.size(); ++i) difference[i] = difference[i] / s[i % inputs.cols] - w[i];
  return inputs.error(difference);
}

TEST(Awq, FixedAlphaIsTheFormula) {
  const SampleInputs inputs(24, 100, 1);
  const auto w = random_weights(6 * 24, 2);
  const QuantSpec spec{.bits = 4, .group = 7};
  for (double r : {0.0, 0.3, 1.0}) {
    const auto s = awq_scales(inputs, w, spec, {{"alpha", r}});
    std::vector<double> want;
    for (size_t c = 0; c < 24; ++c) {
      double mean = 0;
      for (size_t row = 0; row < 6; ++row) {
        double largest = 0;
        for (size_t k = c / 7 * 7; k < std::min<size_t>(24, c / 7 * 7 + 7); ++k)
          largest = std::max(largest, std::abs(double{w[row * 24 + k]}));
        mean += std::abs(double{w[row * 24 + c]}) / largest / 6;
      }
      want.push_back(std::pow(double{inputs.stats.mean_abs[c]}, r) / (std::pow(mean, 1 - r) + 1e-4));
    }
    const double middle =
        std::sqrt(*std::max_element(want.begin(), want.end()) * *std::min_element(want.begin(), want.end()));
    for (size_t c = 0; c < 24; ++c) EXPECT_NEAR(s[c], want[c] / middle, 1e-5 * want[c] / middle) << r << " " << c;
  }
}

TEST(Awq, ScalesAreNeverWorseThanNone) {
  double before = 0, after = 0;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    const SampleInputs inputs(96, 300, seed);
    const auto w = random_weights(40 * 96, seed + 100);
    for (const QuantSpec& spec :
         {QuantSpec{.bits = 4, .group = 32}, QuantSpec{.bits = 3, .group = 40, .symmetric = false},
          QuantSpec{.bits = 2, .group = 0, .symmetric = false},
          QuantSpec{.bits = 4, .group = 32, .grid = Grid::kNF4}}) {
      const auto s = awq_scales(inputs, w, spec);
      for (float x : s) ASSERT_TRUE(std::isfinite(x) && x > 0);
      const double none = error_of(inputs, w, spec, "awq", std::vector<float>(96, 1.0f));
      const double scaled = error_of(inputs, w, spec, "awq", s);
      // The candidates were compared with fewer clips than the rounding tries.
      EXPECT_LE(scaled, 1.1 * none) << describe(spec);
      before += none;
      after += scaled;
    }
  }
  EXPECT_LT(after, 0.9 * before);  // the inputs have outlier columns
}

TEST(Awq, TakesTheBestOfItsGrid) {
  const SampleInputs inputs(64, 200, 3);
  const auto w = random_weights(32 * 64, 4);
  const QuantSpec spec{.bits = 3, .group = 32};
  const auto rounding = make_algorithm("awq", {{"clip_step", 0.05}});
  const auto error = [&](const std::vector<float>& s) {
    const auto d = scaled_rounding(matrix(w.data(), 32, 64), spec, *rounding, inputs.stats.mean_square, s);
    return inputs.error(d);
  };
  const double found = error(awq_scales(inputs, w, spec));
  EXPECT_LE(found, error(std::vector<float>(64, 1.0f)) * 1.0001);
  for (int i = 0; i < 20; ++i)
    EXPECT_LE(found, error(awq_scales(inputs, w, spec, {{"alpha", i / 20.0}})) * 1.0001) << i;
}

TEST(Awq, SurvivesColumnsWithoutInputsAndWeights) {
  SampleInputs inputs(32, 50, 5);
  for (size_t c : {size_t{0}, size_t{7}}) inputs.stats.mean_abs[c] = inputs.stats.mean_square[c] = 0;
  auto w = random_weights(8 * 32, 6);
  for (size_t r = 0; r < 8; ++r) w[r * 32 + 3] = 0;
  for (float x : awq_scales(inputs, w, {.bits = 4, .group = 16})) EXPECT_TRUE(std::isfinite(x) && x > 0);
  inputs.stats.mean_abs.assign(32, 0);
  for (float x : awq_scales(inputs, w, {.bits = 4, .group = 16}, {{"alpha", 0.5}})) EXPECT_EQ(x, 1.0f);
}

TEST(Awq, InputErrorIsTheSquaredOutput) {
  const SampleInputs inputs(50, 120, 8);
  const auto d = random_weights(9 * 50, 9);
  const QuantSpec spec;
  const EqualizerInput input{{}, {&spec, 1}, inputs.stats, &inputs.factor};
  const double want = inputs.error(d);
  EXPECT_NEAR(input_error(input, matrix(d.data(), 9, 50)), want, 1e-4 * want);
  double diagonal = 0;
  for (size_t i = 0; i < d.size(); ++i)
    diagonal += double{inputs.stats.mean_square[i % 50]} * double{d[i]} * double{d[i]};
  const EqualizerInput without{{}, {&spec, 1}, inputs.stats};
  EXPECT_NEAR(input_error(without, matrix(d.data(), 9, 50)), diagonal, 1e-9 * diagonal);
}

// Weighted error of each group.
std::vector<double> group_errors(const QuantizedMatrix& q, const std::vector<float>& w, const std::vector<float>& h) {
  const auto back = values_of(q);
  std::vector<double> out;
  const size_t size = q.spec.group_size(q.cols);
  for (size_t r = 0; r < q.rows; ++r)
    for (size_t begin = 0; begin < q.cols; begin += size) {
      double error = 0;
      for (size_t c = begin; c < std::min(q.cols, begin + size); ++c)
        error += double{h[c]} * std::pow(double{w[r * q.cols + c]} - double{back[r * q.cols + c]}, 2);
      out.push_back(error);
    }
  return out;
}

TEST(Awq, RoundingIsTheBestClip) {
  const SampleInputs inputs(100, 200, 11);
  const auto w = random_weights(4 * 100, 12);
  const auto& h = inputs.factor.importance;
  for (QuantSpec spec : every_spec()) {
    if (spec.mins || spec.per_tensor) continue;
    const auto weight = matrix(w.data(), 4, 100);
    const auto errors = group_errors(
        make_algorithm("awq", {{"clip_low", 0.91}, {"clip_step", 0.01}})->quantize({weight, spec, {}, &inputs.factor}),
        w, h);
    std::vector<double> want(errors.size(), 1e300);
    for (int i = 0; i < 10; ++i) {
      const auto clipped =
          group_errors(make_algorithm("rtn", {{"clip", 1 - 0.01 * i}})->quantize({weight, spec}), w, h);
      for (size_t g = 0; g < want.size(); ++g) want[g] = std::min(want[g], clipped[g]);
    }
    for (size_t g = 0; g < want.size(); ++g) ASSERT_NEAR(errors[g], want[g], 1e-9 + 1e-5 * want[g]) << describe(spec);
  }
}

TEST(Awq, StandsAloneOrBeforeARounding) {
  const AlgorithmChain alone("awq", {}), chained("awq,search", {});
  EXPECT_EQ(alone.equalizers().size(), 1u);
  EXPECT_TRUE(alone.needs_inputs());
  EXPECT_EQ(alone.input_use(), InputUse::kImportance);
  EXPECT_EQ(chained.equalizers().size(), 1u);
}

}  // namespace
}  // namespace nibble
