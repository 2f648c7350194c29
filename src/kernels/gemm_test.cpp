#include "kernels/gemm.h"

#include <algorithm>
#include <cmath>

#include "core/threads.h"
#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class Gemm : public EveryTable {};

// A weight held in a buffer of exactly rows x cols.
struct Weight {
  size_t rows, cols;
  std::vector<float> values;
  RowLoader loader() const {
    return {this, [](const void* self, size_t row, size_t begin, size_t count, float* out) noexcept {
              const auto& weight = *static_cast<const Weight*>(self);
              std::copy_n(weight.values.data() + row * weight.cols + begin, count, out);
            }};
  }
};

void check(const Table& table, size_t tokens, size_t rows, size_t depth, size_t pad, bool with_bias) {
  const Weight w = {rows, depth, random_floats(rows * depth, rows + 1)};
  const std::vector<float> bias = random_floats(rows, 5);
  const size_t x_stride = depth + pad, y_stride = rows + pad;
  const std::vector<float> x = random_floats(tokens == 0 ? 0 : tokens * x_stride - pad, depth + 2);
  std::vector<float> y(tokens == 0 ? 0 : tokens * y_stride - pad, 99.0f);
  gemm(table, {x.data(), tokens, depth, x_stride}, w.loader(), with_bias ? bias.data() : nullptr,
       {y.data(), tokens, rows, y_stride});
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t t = i / y_stride, r = i % y_stride;
    if (r >= rows) {
      ASSERT_EQ(y[i], 99.0f) << "padding of y was written";
      continue;
    }
    double want = with_bias ? static_cast<double>(bias[r]) : 0, magnitude = std::abs(want);
    for (size_t c = 0; c < depth; ++c) {
      const double term = static_cast<double>(x[t * x_stride + c]) * static_cast<double>(w.values[r * depth + c]);
      want += term, magnitude += std::abs(term);
    }
    ASSERT_NEAR(y[i], want, 2e-6 * magnitude) << tokens << " x " << rows << " x " << depth << " at " << t << ", " << r;
  }
}

TEST_P(Gemm, EverySmallExtent) {
  for (size_t n = 0; n <= 70; ++n) {
    check(table(), n, 37, 21, n % 3, n % 2 == 0);
    check(table(), 15, n, 19, n % 3, n % 2 == 1);
    check(table(), 9, 33, n, n % 3, n % 2 == 0);
  }
}

TEST_P(Gemm, SampledShapes) {
  Random random(3);
  for (int i = 0; i < 60; ++i)
    check(table(), 1 + random.next() % 70, 1 + random.next() % 70, 1 + random.next() % 70, random.next() % 5,
          i % 2 == 0);
}

TEST_P(Gemm, DeeperThanOneBlockAndWiderThanOneRange) {
  check(table(), 31, 200, 383, 0, true);
  check(table(), 31, 65, 384, 1, false);
  check(table(), 17, 129, 385, 0, false);
  check(table(), 5, 67, 1533, 3, true);
}

TEST_P(Gemm, TheThreadCountChangesNothing) {
  const Weight w = {301, 900, random_floats(301 * 900, 1)};
  const std::vector<float> x = random_floats(23 * 900, 2);
  std::vector<float> results[3];
  size_t threads = 1;
  for (std::vector<float>& y : results) {
    y.resize(23 * 301);
    set_thread_count(threads++);
    gemm(table(), matrix(x.data(), 23, 900), w.loader(), nullptr, matrix(y.data(), 23, 301));
  }
  set_thread_count(0);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

NIBBLE_FOR_EVERY_TABLE(Gemm);

}  // namespace
}  // namespace nibble::kernels
