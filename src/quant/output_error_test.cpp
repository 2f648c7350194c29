#include "quant/output_error.h"

#include <gtest/gtest.h>

#include "quant/sample_inputs.h"

namespace nibble {
namespace {

using namespace testing_support;

TEST(OutputError, IsTheQuadraticForm) {
  for (const size_t rows : {size_t{1}, size_t{31}, size_t{33}, size_t{64}})
    for (const size_t cols : {size_t{1}, size_t{7}, size_t{8}, size_t{90}})
      for (const ColumnOrder order : {ColumnOrder::kNatural, ColumnOrder::kActOrder}) {
        InputStats stats = random_inputs(cols, 2 * cols, 1);
        if (cols > 8) kill_column(stats, 5);
        const Square h = full_gram(stats);
        const InputFactor inputs = factor_inputs(std::move(stats), {.order = order});
        const size_t stride = cols + 3;
        Random random(2);
        std::vector<float> d(rows * stride);
        for (float& x : d) x = static_cast<float>(random.uniform() - 0.5);
        double want = 0;
        for (size_t r = 0; r < rows; ++r)
          want += quadratic(h, {d.begin() + static_cast<ptrdiff_t>(r * stride),
                                d.begin() + static_cast<ptrdiff_t>(r * stride + cols)});
        EXPECT_NEAR(output_error(inputs, {d.data(), rows, cols, stride}), want, 2e-6 * want) << rows << " x " << cols;
      }
}

TEST(OutputError, IsZeroWithoutAFactor) {
  const float d = 1;
  InputFactor inputs;
  inputs.cols = 1;
  inputs.importance = {1};
  EXPECT_EQ(output_error(inputs, matrix(&d, 1, 1)), 0);
}

}  // namespace
}  // namespace nibble
