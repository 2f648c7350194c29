#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "algo/algorithm.h"
#include "algo/group_scale.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;
using testing::HasSubstr;

QuantizedMatrix run(const std::vector<float>& w, size_t rows, const QuantSpec& spec,
                    const AlgorithmSettings& settings = {}) {
  const auto algorithm = make_algorithm("hqq", settings);
  return algorithm->quantize({matrix(w.data(), rows, w.size() / rows), algorithm->spec_for(spec)});
}

std::vector<float> weights(size_t n, uint64_t seed, double unit = 0.05) {
  Random random(seed);
  std::vector<float> w(n);
  for (float& x : w) {
    const double u = 2 * random.uniform() - 1;
    x = static_cast<float>(unit * u / (1.1 - std::abs(u)));
  }
  return w;
}

// Mean |error| of each group, in double.
std::vector<double> group_errors(const QuantizedMatrix& q, const std::vector<float>& w) {
  const auto back = values_of(q);
  std::vector<double> out;
  const size_t size = q.spec.group_size(q.cols);
  for (size_t r = 0; r < q.rows; ++r)
    for (size_t begin = 0; begin < q.cols; begin += size) {
      const size_t end = std::min(q.cols, begin + size);
      double error = 0;
      for (size_t c = begin; c < end; ++c) error += std::abs(double{w[r * q.cols + c]} - double{back[r * q.cols + c]});
      out.push_back(error / static_cast<double>(end - begin));
    }
  return out;
}

TEST(Hqq, MatchesTheNumpyReference) {
  const auto file = golden("hqq_golden.safetensors");
  const auto w = values<float>(file.at("weight"));
  int same_errors = 0, same_zeros = 0, all = 0;
  for (int bits = 1; bits <= 8; ++bits)
    for (int relative : {0, 1}) {
      const auto want = [&](const char* what) { return values<float>(file.at(cat(what, ".", bits, ".", relative))); };
      const auto scale = want("scale"), zero = want("zero"), error = want("error");
      const QuantizedMatrix q = run(w, 6, {.bits = bits, .group = 40, .symmetric = false},
                                    {{"relative", relative}, {"refit", 0}, {"round_zero", 0}});
      const auto errors = group_errors(q, w);
      ASSERT_EQ(q.scales.size(), scale.size());
      for (size_t g = 0; g < scale.size(); ++g) {
        const std::string where = cat(bits, " bits, relative ", relative, ", group ", g);
        EXPECT_NEAR(q.scales[g], scale[g], 1e-6f * scale[g]) << where;
        // Where a weight comes to lie halfway between two codes, or two shifts are equally good, rounding decides where
        // the iterations lead.
        EXPECT_NEAR(errors[g], error[g], 0.06 * double{error[g]}) << where;
        same_errors += std::abs(errors[g] - double{error[g]}) < 1e-4 * double{error[g]};
        same_zeros += std::abs(double{-q.mins[g] / q.scales[g]} - double{zero[g]}) < 1e-3;
        ++all;
      }
    }
  EXPECT_GT(same_errors, 0.9 * all);
  EXPECT_GT(same_zeros, 0.75 * all);
}

// The zero point that HQQ starts from.
double nearest_error(const float* w, size_t n, int bits) {
  const auto [lo, hi] = std::minmax_element(w, w + n);
  const double top = (1 << bits) - 1, scale = (double{*hi} - double{*lo}) / top;
  double error = 0;
  for (size_t i = 0; i < n && scale > 0; ++i) {
    const double steps = (double{w[i]} - double{*lo}) / scale;
    error += scale * std::abs(steps - std::min(std::nearbyint(steps), top));
  }
  return error / static_cast<double>(n);
}

TEST(Hqq, IsNeverWorseThanTheZeroPointItStartsFrom) {
  const size_t rows = 6, cols = 130;
  for (double unit : {0.05, 5.0}) {
    auto w = weights(rows * cols, 1, unit);
    for (size_t c = 0; c < cols; ++c) w[c] += 100;  // zero far outside of the range
    double gained = 0, before = 0;
    for (int bits = 1; bits <= 8; ++bits)
      for (size_t group : {size_t{1}, size_t{7}, size_t{64}, QuantSpec::kWholeRow})
        for (double relative : {0.0, 0.5, 1.0}) {
          const QuantSpec spec{.bits = bits, .group = group, .symmetric = false};
          const auto q = run(w, rows, spec, {{"relative", relative}, {"refit", 0}, {"round_zero", 0}});
          const auto errors = group_errors(q, w);
          const size_t groups = spec.groups(cols), size = spec.group_size(cols);
          for (size_t g = 0; g < errors.size(); ++g) {
            const size_t begin = g % groups * size;
            const double start = nearest_error(&w[g / groups * cols + begin], std::min(size, cols - begin), bits);
            // Values near 100 have an absolute error of their own.
            ASSERT_LE(errors[g], start * 1.0001 + (g < groups ? 1e-5 : 1e-6 * unit)) << describe(spec) << " " << g;
            gained += start - errors[g];
            before += start;
          }
        }
    EXPECT_GT(gained, 0.01 * before);
  }
}

// Alternating least squares and rounding can only lower the sum of squares, and leaves no mean error.
TEST(Hqq, RefitsLowerTheSquaredErrorAndCentreIt) {
  const size_t rows = 5, cols = 128;
  const auto w = weights(rows * cols, 3, 0.05);
  for (int bits : {2, 3, 4, 8}) {
    const QuantSpec spec{.bits = bits, .group = 64, .symmetric = false};
    double squares[3] = {};
    const double refits[] = {0, 1, 8};
    for (size_t i = 0; i < 3; ++i) {
      const auto q = run(w, rows, spec, {{"refit", refits[i]}});
      const auto back = values_of(q);
      for (size_t g = 0; g < w.size() / 64; ++g) {
        double mean = 0;
        for (size_t k = g * 64; k < g * 64 + 64; ++k) {
          const double error = double{w[k]} - double{back[k]};
          mean += error / 64;
          squares[i] += error * error;
        }
        if (i > 0) {
          EXPECT_NEAR(mean, 0, 1e-7) << describe(spec) << " group " << g;
        }
      }
    }
    EXPECT_LT(squares[1], squares[0]) << describe(spec);
    EXPECT_LE(squares[2], squares[1]) << describe(spec);
  }
}

TEST(Hqq, RefitsWeighColumnsByTheirImportance) {
  const size_t rows = 6, cols = 128;
  const auto w = weights(rows * cols, 5, 0.05);
  Random random(6);
  InputFactor inputs;
  inputs.cols = cols;
  for (size_t c = 0; c < cols; ++c) inputs.importance.push_back(static_cast<float>(std::pow(random.uniform(), 4)));
  inputs.importance[7] = 0;
  std::fill_n(inputs.importance.begin() + 64, 64, inputs.importance[3]);  // equal ones are as good as none
  const auto algorithm = make_algorithm("hqq", {{"refit", 1}});
  for (int bits : {2, 3, 4}) {
    const QuantSpec spec = algorithm->spec_for({.bits = bits, .group = 64, .symmetric = false});
    const MatrixView<const float> view = matrix(w.data(), rows, cols);
    const auto plain = algorithm->quantize({view, spec}), weighted = algorithm->quantize({view, spec, {}, &inputs});
    const auto plain_values = values_of(plain), weighted_values = values_of(weighted);
    EXPECT_EQ(plain.codes, weighted.codes);
    for (size_t r = 0; r < rows; ++r) {
      double before = 0, after = 0, mean = 0;
      for (size_t c = 0; c < 64; ++c) {
        const double h = inputs.importance[c];
        const double old_error = double{w[r * cols + c]} - double{plain_values[r * cols + c]};
        const double error = double{w[r * cols + c]} - double{weighted_values[r * cols + c]};
        before += h * old_error * old_error;
        after += h * error * error;
        mean += h * error;
      }
      EXPECT_LT(after, before) << bits << " bits, row " << r;
      EXPECT_NEAR(mean, 0, 1e-6) << bits << " bits, row " << r;
      for (size_t c = 64; c < cols; ++c)
        EXPECT_NEAR(weighted_values[r * cols + c], plain_values[r * cols + c], 1e-6) << bits << " bits, row " << r;
    }
  }
}

// Gains of norms may be zero, or so large that their squares overflow, or one may outweigh all others.
TEST(Hqq, ImportanceThatSaysNothingChangesNoScale) {
  const size_t rows = 6, cols = 64;
  const auto w = weights(rows * cols, 7);
  const QuantSpec asked{.bits = 3, .group = 64, .symmetric = false};
  const auto plain = run(w, rows, asked, {{"refit", 0}});
  for (const float one : {0.0f, std::numeric_limits<float>::infinity(), 1.0f, 1e30f}) {
    for (const float others : {0.0f, 1e-20f}) {
      if (one == 0 && others != 0) continue;
      InputFactor inputs;
      inputs.cols = cols;
      inputs.importance.assign(cols, others);
      inputs.importance[9] = one;
      const auto algorithm = make_algorithm("hqq", {{"refit", 1}});
      const auto q = algorithm->quantize({matrix(w.data(), rows, cols), algorithm->spec_for(asked), {}, &inputs});
      EXPECT_EQ(q.scales, plain.scales) << one << " " << others;
      for (const float min : q.mins) EXPECT_TRUE(std::isfinite(min)) << one << " " << others;
    }
  }
}

TEST(Hqq, StartsFromAnIntegerZeroWithFourBits) {
  const size_t rows = 4, cols = 128;
  const auto w = weights(rows * cols, 9);
  for (int bits : {3, 4, 5}) {
    const auto q = run(w, rows, {.bits = bits, .group = 64, .symmetric = false}, {{"iters", 1}, {"refit", 0}});
    double farthest = 0;
    for (size_t g = 0; g < q.mins.size(); ++g) {
      const double zero = double{q.mins[g]} / double{q.scales[g]};
      farthest = std::max(farthest, std::abs(zero - std::nearbyint(zero)));
    }
    EXPECT_EQ(farthest < 1e-5, bits == 4) << bits;
  }
}

TEST(Hqq, IntegerZerosAreNeverWorseThanRoundToNearest) {
  const size_t rows = 8, cols = 130;
  const auto w = weights(rows * cols, 2);
  for (int bits = 1; bits <= 8; ++bits) {
    const QuantSpec spec{.bits = bits, .group = 32, .symmetric = false};
    const QuantizedMatrix q = run(w, rows, spec, {{"integer_zero", 1}});
    EXPECT_EQ(q.spec, spec);
    EXPECT_NO_THROW(validate(q));
    const auto errors = group_errors(q, w);
    const auto nearest = group_errors(make_algorithm("rtn", {})->quantize({matrix(w.data(), rows, cols), spec}), w);
    for (size_t g = 0; g < errors.size(); ++g) ASSERT_LE(errors[g], nearest[g] * 1.0001) << bits << " " << g;
  }
}

TEST(Hqq, ConstantGroupsAreExact) {
  for (float value : {0.0f, 0.3f, -7.0f, 1e30f, -1e-40f}) {
    const std::vector<float> w(20, value);
    const QuantizedMatrix q = run(w, 2, {.bits = 3, .group = 4, .symmetric = false});
    EXPECT_EQ(values_of(q), w) << value;
    EXPECT_NO_THROW(validate(q));
  }
}

TEST(Hqq, SurvivesTinyAndHugeWeights) {
  for (double unit : {1e-44, 1e-30, 1e-10, 1e10, 1e30, 3e37})
    for (int bits : {1, 4, 8})
      for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
        for (int integer : {0, 1}) {
          const QuantSpec spec{.bits = bits, .group = 16, .symmetric = false, .scale_dtype = dtype};
          const auto q = run(weights(64, 3, unit), 1, spec, {{"integer_zero", integer}, {"relative", 0}});
          EXPECT_NO_THROW(validate(q)) << unit;
        }
}

TEST(Hqq, ScalesAndMinsAreThoseTheFileHolds) {
  const auto w = weights(4 * 64, 9);
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    const auto q = run(w, 4, {.bits = 3, .group = 16, .symmetric = false, .scale_dtype = dtype});
    for (float scale : q.scales) EXPECT_EQ(scale, storable_scale(scale, dtype));
    for (float min : q.mins) EXPECT_EQ(min, storable_min(min, dtype));
    // Codes were chosen for them: no other is nearer.
    for (size_t i = 0; i < w.size(); ++i) {
      const auto error = [&](int code) {
        return std::abs(double{q.scales[i / 16]} * code + double{q.mins[i / 16]} - double{w[i]});
      };
      for (int code = 0; code < 8; ++code) ASSERT_LE(error(q.codes[i]), error(code) + 1e-7);
    }
  }
}

TEST(Hqq, RefusesGridsWithoutZeroPoints) {
  const auto hqq = make_algorithm("hqq", {});
  EXPECT_THAT(message_of([&] { static_cast<void>(hqq->spec_for({.bits = 4, .group = 64})); }),
              HasSubstr("int4 sym g64: hqq moves the zero points of integer grids; try --asym"));
  EXPECT_THROW(hqq->spec_for({.bits = 4, .grid = Grid::kNF4}), Error);
  EXPECT_THROW(hqq->spec_for({.bits = 4, .group = 0, .per_tensor = true, .symmetric = false}), Error);
  EXPECT_TRUE(hqq->spec_for({.symmetric = false}).mins);
  EXPECT_FALSE(make_algorithm("hqq", {{"integer_zero", 1}})->spec_for({.symmetric = false}).mins);
}

TEST(Hqq, RefusesWeightsThatAreNotNumbers) {
  std::vector<float> w(32, 1.0f);
  w[17] = std::nanf("");
  EXPECT_THROW(run(w, 1, {.bits = 4, .group = 16, .symmetric = false}), Error);
}

}  // namespace
}  // namespace nibble
