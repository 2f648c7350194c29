#include <gmock/gmock.h>

#include <cmath>

#include "algo/algorithm.h"
#include "algo/sample_inputs.h"
#include "algo/soft_rounding.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;

QuantizedMatrix run(std::string_view algorithm, const std::vector<float>& w, const QuantSpec& spec,
                    const SampleInputs& inputs, const AlgorithmSettings& settings = {},
                    const QuantizedMatrix* start = nullptr) {
  return make_algorithm(algorithm, settings)
      ->quantize({matrix(w.data(), w.size() / inputs.cols, inputs.cols), spec, {-1.0f, 1.0f}, &inputs.factor, start});
}

double error_of(const QuantizedMatrix& q, const std::vector<float>& w, const SampleInputs& inputs) {
  std::vector<float> difference = values_of(q);
  for (size_t i = 0; i < w.size(); ++i) difference[i] -= w[i];
  return inputs.error(difference);
}

// The error of one row with rint's residual, and the codes of weights beyond the range, held fixed: a smooth function
// of v and stretch.
struct Surrogate {
  const SampleInputs& inputs;
  QuantSpec spec;
  std::vector<double> w, residual;
  std::vector<double> scale, zero, offset;  // [groups]
  std::vector<bool> within;                 // [cols]

  double position(size_t c, double v, double stretch) const {
    const size_t g = c / spec.group;
    return (w[c] - offset[g]) / (scale[g] * stretch) + zero[g] + v;
  }
  double error(const std::vector<double>& v, const std::vector<double>& stretch) const {
    std::vector<double> d(w.size());
    for (size_t c = 0; c < w.size(); ++c) {
      const size_t g = c / spec.group;
      const double code = within[c] ? position(c, v[c], stretch[g]) + residual[c] : residual[c];
      d[c] = scale[g] * stretch[g] * (code - zero[g]) + offset[g] - w[c];
    }
    double sum = 0;
    for (size_t t = 0; t < inputs.tokens; ++t) {
      double output = 0;
      for (size_t c = 0; c < d.size(); ++c) output += d[c] * inputs.x[t * d.size() + c];
      sum += output * output;
    }
    return sum / static_cast<double>(inputs.tokens);
  }
};

TEST(SoftRounding, GradientsAgreeWithFiniteDifferences) {
  int beyond = 0;
  const size_t cols = 40;
  for (ColumnOrder order : {ColumnOrder::kNatural, ColumnOrder::kActOrder})
    for (const QuantSpec& spec :
         {QuantSpec{.bits = 3, .group = 16}, QuantSpec{.bits = 2, .group = 16, .full_range = true},
          QuantSpec{.bits = 3, .group = 16, .symmetric = false}, QuantSpec{.bits = 1, .group = 16},
          QuantSpec{.bits = 2, .group = 16, .symmetric = false, .mins = true}}) {
      const SampleInputs inputs(cols, 80, 3, {.order = order});
      const auto w = random_weights(2 * cols, 4);
      QuantSpec points = spec;
      points.mins = false;
      QuantizedMatrix start = run("rtn", w, points, inputs, {{"clip", 0.6}});  // some weights are clamped
      start.spec = spec;
      if (spec.mins) {
        for (size_t i = 0; i < start.scales.size(); ++i)
          start.mins.push_back(-start.scales[i] * static_cast<float>(start.zeros[i]));
        start.zeros.clear();
      }
      const size_t groups = start.groups();
      SoftRounding soft(matrix(w.data(), 2, cols), start, 0, 2, inputs.factor);
      Random random(5);
      for (float& v : soft.v()) v = static_cast<float>(random.uniform() - 0.5);
      for (float& s : soft.stretch()) s = static_cast<float>(0.9 + 0.2 * random.uniform());
      soft.forward();
      std::vector<float> by_v, by_stretch;
      soft.gradients(by_v, by_stretch);
      for (size_t r = 0; r < 2; ++r) {
        Surrogate surrogate{inputs, spec, {}, {}, {}, {}, {}, {}};
        std::vector<double> v(cols), stretch;
        for (size_t g = 0; g < groups; ++g) {
          const size_t at = r * groups + g;
          const ValueMap map = value_map(spec, start.scales[at],
                                         spec.symmetric ? spec.symmetric_zero()
                                         : spec.mins    ? 0
                                                        : start.zeros[at]);
          surrogate.scale.push_back(double{map.scale});
          surrogate.zero.push_back(double{map.zero});
          surrogate.offset.push_back(spec.mins ? double{start.mins[at]} : 0.0);
          stretch.push_back(double{soft.stretch()[at]});
        }
        for (size_t c = 0; c < cols; ++c) surrogate.w.push_back(double{w[r * cols + c]});
        for (size_t i = 0; i < cols; ++i) v[inputs.factor.order[i]] = double{soft.v()[r * cols + i]};
        for (size_t c = 0; c < cols; ++c) {
          const double y = surrogate.position(c, v[c], stretch[c / spec.group]);
          const double rounded = std::nearbyint(y), code = std::clamp(rounded, 0.0, std::exp2(spec.bits) - 1);
          surrogate.within.push_back(code == rounded);
          surrogate.residual.push_back(code == rounded ? rounded - y : code);
          beyond += code != rounded;
        }
        const double error = surrogate.error(v, stretch);
        EXPECT_NEAR(soft.errors()[r], error, 1e-4 * error) << describe(spec);
        double largest = 0;
        for (size_t i = 0; i < cols; ++i) largest = std::max(largest, std::abs(double{by_v[r * cols + i]}));
        ASSERT_GT(largest, 0);
        constexpr double kStep = 1e-5;
        const auto slope = [&](std::vector<double>& x, size_t at) {
          const double middle = x[at];
          x[at] = middle + kStep;
          const double above = surrogate.error(v, stretch);
          x[at] = middle - kStep;
          const double below = surrogate.error(v, stretch);
          x[at] = middle;
          return (above - below) / (2 * kStep);
        };
        for (size_t i = 0; i < cols; ++i) {
          const size_t c = inputs.factor.order[i];
          EXPECT_NEAR(by_v[r * cols + i], slope(v, c), 1e-3 * largest) << describe(spec) << " column " << c;
        }
        for (size_t g = 0; g < groups; ++g)
          EXPECT_NEAR(by_stretch[r * groups + g], slope(stretch, g), 1e-3 * largest)
              << describe(spec) << " group " << g;
      }
    }
  EXPECT_GT(beyond, 10);
}

TEST(AutoRound, IsNeverWorseThanItsStart) {
  const SampleInputs inputs(70, 200, 1);
  const auto w = random_weights(6 * 70, 2);
  double before = 0, after = 0;
  for (int bits = 1; bits <= 8; ++bits)
    for (const QuantSpec& spec :
         {QuantSpec{.bits = bits, .group = 32}, QuantSpec{.bits = bits, .group = 32, .full_range = true},
          QuantSpec{.bits = bits, .group = 32, .symmetric = false, .scale_dtype = DType::kBF16},
          QuantSpec{.bits = bits, .group = 0, .symmetric = false}}) {
      for (const char* algorithm : {"rtn", "gptq"}) {
        const QuantizedMatrix start = run(algorithm, w, spec, inputs);
        const QuantizedMatrix q = run("autoround", w, spec, inputs, {{"iters", 40}}, &start);
        EXPECT_NO_THROW(validate(q));
        const double was = error_of(start, w, inputs), is = error_of(q, w, inputs);
        EXPECT_LE(is, was * 1.0001) << describe(spec) << " after " << algorithm;
        if (std::string_view(algorithm) == "rtn") before += was, after += is;
      }
    }
  EXPECT_LT(after, 0.8 * before);
}

TEST(AutoRound, BeatsItsSearchedStart) {
  const SampleInputs inputs(96, 300, 7);
  const auto w = random_weights(8 * 96, 8);
  for (int bits : {2, 3, 4}) {
    const QuantSpec spec{.bits = bits, .group = 32, .symmetric = false};
    EXPECT_LT(error_of(run("autoround", w, spec, inputs), w, inputs),
              0.8 * error_of(run("search", w, spec, inputs), w, inputs));
  }
}

TEST(AutoRound, MoreThanOneBlockOfRowsIsTheSame) {
  const SampleInputs inputs(8, 30, 9);
  const auto w = random_weights(40 * 8, 10);
  const QuantSpec spec{.bits = 3, .group = 8};
  const QuantizedMatrix whole = run("autoround", w, spec, inputs);
  for (size_t r = 0; r < 40; r += 10)
    EXPECT_TRUE(same(run("autoround",
                         std::vector<float>(w.begin() + static_cast<ptrdiff_t>(8 * r),
                                            w.begin() + static_cast<ptrdiff_t>(8 * r + 80)),
                         spec, inputs),
                     rows_of(whole, r, r + 10)));
}

TEST(AutoRound, KeepsItsStartWithoutAFactor) {
  SampleInputs inputs(32, 60, 11);
  inputs.factor.factor.clear();
  const auto w = random_weights(4 * 32, 12);
  const QuantSpec spec{.bits = 3, .group = 16};
  const QuantizedMatrix start = run("rtn", w, spec, inputs);
  EXPECT_TRUE(same(run("autoround", w, spec, inputs, {}, &start), start));
}

TEST(AutoRound, RefusesTables) {
  EXPECT_THROW(make_algorithm("autoround", {})->spec_for({.bits = 4, .grid = Grid::kNF4}), Error);
}

}  // namespace
}  // namespace nibble
