#include "algo/column_training.h"

#include <gtest/gtest.h>

#include <cmath>

#include "algo/sample_inputs.h"
#include "core/threads.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr size_t kCols = 48, kRows = 21, kOther = 70;

// Two linears of other specs that read the same inputs.
struct Linears {
  SampleInputs inputs{kCols, 200, 3};
  std::vector<float> first = random_weights(kRows * kCols, 1), second = random_weights(kOther * kCols, 2);
  std::vector<MatrixView<const float>> weights = {matrix<const float>(first.data(), kRows, kCols),
                                                  matrix<const float>(second.data(), kOther, kCols)};
  std::vector<QuantSpec> specs = {QuantSpec{.bits = 3, .group = 16}, QuantSpec{.bits = 4, .symmetric = false}};

  EqualizerInput input(bool factored = true) const {
    return {weights, specs, inputs.stats, factored ? &inputs.factor : nullptr};
  }
  // In double, from the inputs themselves.
  double error(const std::vector<float>& scales) const {
    const auto rtn = make_algorithm("rtn", {});
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i)
      sum += inputs.error(scaled_rounding(weights[i], specs[i], *rtn, inputs.stats.mean_square, scales));
    return sum;
  }
};

TEST(ColumnTraining, TheGradientIsThatOfTheError) {
  const Linears linears;
  const std::vector<float> start = random_weights(kOther * kCols, 9);  // 70 rows: whole lanes and a rest
  for (const bool factored : {true, false}) {
    const EqualizerInput input = linears.input(factored);
    std::vector<float> gradient(start.size());
    const double error = input_error_gradient(input, matrix<const float>(start.data(), kOther, kCols),
                                              matrix(gradient.data(), kOther, kCols));
    EXPECT_NEAR(error, input_error(input, matrix<const float>(start.data(), kOther, kCols)), 1e-5 * error);
    for (const size_t i : {size_t{0}, size_t{kCols + 5}, 17 * kCols + 47, 40 * kCols + 11, kOther * kCols - 1}) {
      // The error is quadratic: differences over any step are exact but for rounding. One row is enough.
      std::vector<float> row(start.begin() + static_cast<std::ptrdiff_t>(i / kCols * kCols),
                             start.begin() + static_cast<std::ptrdiff_t>(i / kCols * kCols + kCols));
      const auto moved = [&](float by) {
        std::vector<float> changed = row;
        changed[i % kCols] += by;
        return input_error(input, matrix<const float>(changed.data(), 1, kCols));
      };
      const double step = 4, slope = (moved(4) - moved(-4)) / (2 * step);
      EXPECT_NEAR(gradient[i], slope, 1e-3 * (1 + std::abs(slope))) << factored << " " << i;
    }
  }
}

TEST(ColumnTraining, LowersTheErrorOfTheOutputs) {
  const Linears linears;
  const std::vector<float> ones(kCols, 1.0f);
  const auto scales = train_columns(linears.input(), {100, 0.05, 256});
  EXPECT_LT(linears.error(scales), 0.85 * linears.error(ones));
  const auto some = train_columns(linears.input(), {100, 0.05, 32});  // of 70 rows every second
  EXPECT_LT(linears.error(some), 0.95 * linears.error(ones));
  EXPECT_NE(some, scales);
}

TEST(ColumnTraining, IsNeverWorseThanNoFactors) {
  Linears linears;
  const std::vector<float> ones(kCols, 1.0f);
  EXPECT_EQ(train_columns(linears.input(), {0, 0.1, 256}), ones);
  const double plain = linears.error(ones);
  for (const double rate : {0.001, 0.1, 1.0})
    for (const size_t rows : {size_t{1}, size_t{8}, size_t{256}})
      EXPECT_LE(linears.error(train_columns(linears.input(), {5, rate, rows})), plain * (1 + 1e-9)) << rate << rows;
  linears.specs[0] = {.bits = 4, .group = QuantSpec::kWholeRow, .per_tensor = true};
  EXPECT_LE(linears.error(train_columns(linears.input(), {30, 0.03, 256})), linears.error(ones));
}

TEST(ColumnTraining, DoesNotDependOnThreads) {
  const Linears linears;
  set_thread_count(1);
  const auto one = train_columns(linears.input(), {6, 0.05, 256});
  set_thread_count(3);
  const auto three = train_columns(linears.input(), {6, 0.05, 256});
  set_thread_count(0);
  EXPECT_EQ(one, three);
}

}  // namespace
}  // namespace nibble
