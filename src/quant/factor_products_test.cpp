#include "quant/factor_products.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/random.h"

namespace nibble {
namespace {

std::vector<float> random_floats(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(n);
  for (float& x : out) x = static_cast<float>(2 * random.uniform() - 1);
  return out;
}

TEST(FactorProducts, AgreeWithDouble) {
  for (const size_t cols : {1u, 5u, 31u, 32u, 64u, 97u, 500u})
    for (const size_t rows : {1u, 6u, 7u, 13u}) {
      InputFactor inputs;
      inputs.cols = cols;
      inputs.factor = random_floats(cols * (cols + 1) / 2, cols);
      const size_t stride = cols + 3;
      const std::vector<float> x = random_floats(rows * stride, rows);
      const MatrixView<const float> d = {x.data(), rows, cols, stride};
      std::vector<float> transposed(rows * cols, 9), plain(rows * cols, 9);
      times_factor_transposed(inputs, d, matrix(transposed.data(), rows, cols));
      times_factor(inputs, d, matrix(plain.data(), rows, cols));
      for (size_t r = 0; r < rows; ++r)
        for (size_t i = 0; i < cols; ++i) {
          double want = 0, magnitude = 0, want_plain = 0, magnitude_plain = 0;
          for (size_t c = 0; c <= i; ++c) {
            const double term = double{d.row(r)[c]} * double{inputs.row(i)[c]};
            want += term, magnitude += std::abs(term);
          }
          for (size_t k = i; k < cols; ++k) {
            const double term = double{d.row(r)[k]} * double{inputs.row(k)[i]};
            want_plain += term, magnitude_plain += std::abs(term);
          }
          ASSERT_NEAR(transposed[r * cols + i], want, 1e-6 * magnitude) << cols << " " << r << " " << i;
          ASSERT_NEAR(plain[r * cols + i], want_plain, 1e-6 * magnitude_plain) << cols << " " << r << " " << i;
        }
    }
}

TEST(FactorProducts, RowsDoNotInfluenceEachOther) {
  InputFactor inputs;
  inputs.cols = 450;
  inputs.factor = random_floats(inputs.cols * (inputs.cols + 1) / 2, 1);
  const std::vector<float> x = random_floats(11 * inputs.cols, 2);
  for (const auto product : {times_factor, times_factor_transposed}) {
    std::vector<float> whole(x.size()), one(inputs.cols);
    product(inputs, matrix(x.data(), 11, inputs.cols), matrix(whole.data(), 11, inputs.cols));
    for (size_t r = 0; r < 11; ++r) {
      product(inputs, matrix(x.data() + r * inputs.cols, 1, inputs.cols), matrix(one.data(), 1, inputs.cols));
      for (size_t c = 0; c < inputs.cols; ++c) ASSERT_EQ(one[c], whole[r * inputs.cols + c]);
    }
  }
}

}  // namespace
}  // namespace nibble
