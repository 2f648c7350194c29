#include "kernels/cholesky.h"

#include <algorithm>
#include <cmath>

#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class Cholesky : public EveryTable {};

std::vector<double> random_doubles(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<double> out(n);
  for (double& value : out) value = random.uniform() * 2 - 1;
  return out;
}

TEST_P(Cholesky, ProductsAgreeWithTheSum) {
  const CholeskyTable& t = cholesky_table(table());
  EXPECT_EQ(t.kernels, table().name);
  ASSERT_EQ(t.panel_cols % t.tile_rows, 0u);
  for (size_t depth = 0; depth < 40; ++depth)
    for (size_t at = 0; at < t.panel_cols; at += t.tile_rows) {
      const size_t rows = std::max<size_t>(depth, 1);  // even of depth 0 an offset needs a panel to point into
      const auto a = random_doubles(rows * t.panel_cols, 1), b = random_doubles(rows * t.panel_cols, 2);
      std::vector<double> out(t.tile_rows * t.panel_cols, 99.0);
      t.products(a.data() + at, b.data(), depth, out.data());
      for (size_t r = 0; r < t.tile_rows; ++r)
        for (size_t c = 0; c < t.panel_cols; ++c) {
          double want = 0, magnitude = 0;
          for (size_t i = 0; i < depth; ++i) {
            const double term = a[i * t.panel_cols + at + r] * b[i * t.panel_cols + c];
            want += term, magnitude += std::abs(term);
          }
          ASSERT_NEAR(out[r * t.panel_cols + c], want, 1e-15 * magnitude) << depth;
        }
    }
}

TEST_P(Cholesky, SolveInvertsTheProduct) {
  const CholeskyTable& t = cholesky_table(table());
  for (size_t depth = 1; depth < 40; ++depth) {
    auto upper = random_doubles(depth * depth, 3);
    for (size_t i = 0; i < depth; ++i) upper[i * depth + i] = 4 + static_cast<double>(i % 3);
    const auto panel = random_doubles(depth * t.panel_cols, 4);
    auto x = panel;
    t.solve(upper.data(), depth, x.data());
    for (size_t i = 0; i < depth; ++i)
      for (size_t c = 0; c < t.panel_cols; ++c) {
        double got = 0, magnitude = 0;
        for (size_t m = i; m < depth; ++m) {
          const double term = upper[i * depth + m] * x[m * t.panel_cols + c];
          got += term, magnitude += std::abs(term);
        }
        ASSERT_NEAR(got, panel[i * t.panel_cols + c], 1e-15 * (magnitude + 1)) << depth;
      }
  }
}

NIBBLE_FOR_EVERY_TABLE(Cholesky);

}  // namespace
}  // namespace nibble::kernels
