#include "kernels/grid_rows.h"

#include <bit>
#include <cmath>

#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class Grids : public EveryTable {};

// E4M3 by its definition.
double fp8(uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (code & 128) != 0 ? -magnitude : magnitude;
}

std::vector<float> some_levels() {
  std::vector<float> levels = random_floats(16, 7);
  levels[3] = 0;
  return levels;
}

// Four-bit codes where `levels` is not empty, FP8 otherwise. Rows of codes and scales lie `pad` apart.
struct Weight {
  size_t rows, cols, group, stride, scale_stride;
  std::vector<uint8_t> codes;
  std::vector<float> scales, levels;

  Weight(size_t n_rows, size_t n_cols, size_t n_group, std::vector<float> of_levels, size_t pad, bool per_tensor)
      : rows(n_rows), cols(n_cols), group(n_group), levels(std::move(of_levels)) {
    const size_t bytes = levels.empty() ? cols : (cols + 1) / 2, groups = (cols + group - 1) / group;
    stride = bytes + pad;
    scale_stride = per_tensor ? 0 : groups + pad;
    codes = random_bytes(rows == 0 ? 0 : rows * stride - pad, cols + 3);
    if (levels.empty())
      for (uint8_t& code : codes)
        if ((code & 127) == 127) code = 0;
    scales = random_floats(per_tensor || rows == 0 ? groups : rows * scale_stride - pad, rows + 5);
  }
  double value(size_t r, size_t c) const {
    const double scale = static_cast<double>(scales[r * scale_stride + c / group]);
    if (levels.empty()) return scale * fp8(codes[r * stride + c]);
    return scale * static_cast<double>(levels[(codes[r * stride + c / 2] >> (c % 2 * 4)) & 15]);
  }
};

std::vector<float> run(const GridTable& table, const Weight& w, const std::vector<float>& x, size_t tokens,
                       size_t x_stride, size_t y_stride, size_t pad) {
  std::vector<float> y(tokens * y_stride - pad, 99.0f);
  GridRows p = {w.codes.data(), w.stride, w.rows, w.cols,   w.scales.data(), w.scale_stride,
                w.group,        x.data(), tokens, x_stride, y.data(),        y_stride};
  if (w.levels.empty()) {
    table.fp8(p);
    return y;
  }
  std::vector<float> arranged(tokens * arranged_size(w.cols), 99.0f);
  for (size_t t = 0; t < tokens; ++t)
    table.arrange(x.data() + t * x_stride, w.cols, arranged.data() + t * arranged_size(w.cols));
  p.x = arranged.data();
  p.x_stride = arranged_size(w.cols);
  table.levels(p, w.levels.data());
  return y;
}

void check(const GridTable& table, const Weight& w, size_t tokens, size_t pad) {
  const size_t x_stride = w.cols + pad, y_stride = w.rows + pad;
  const std::vector<float> x = random_floats(tokens * x_stride - pad, w.cols + 2);
  const std::vector<float> y = run(table, w, x, tokens, x_stride, y_stride, pad);
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t t = i / y_stride, r = i % y_stride;
    if (r >= w.rows) {
      ASSERT_EQ(y[i], 99.0f) << "padding of y was written";
      continue;
    }
    double want = 0, magnitude = 0;
    for (size_t c = 0; c < w.cols; ++c) {
      const double term = static_cast<double>(x[t * x_stride + c]) * w.value(r, c);
      want += term, magnitude += std::abs(term);
    }
    ASSERT_NEAR(y[i], want, 1e-6 * magnitude)
        << tokens << " x " << w.rows << " x " << w.cols << " group " << w.group << " at " << t << ", " << r;
  }
}

TEST_P(Grids, LevelsAgreeWithDouble) {
  const GridTable& grids = grid_table(table());
  EXPECT_EQ(grids.kernels, table().name);
  for (size_t tokens = 1; tokens <= kFewTokens; ++tokens) {
    for (size_t n = 1; n <= 70; ++n) {
      for (const size_t group : {size_t{16}, size_t{32}, size_t{64}, n})
        check(grids, {5, n, group, some_levels(), n % 3, false}, tokens, n % 2);
      check(grids, {n, 40, 16, some_levels(), n % 3, n % 4 == 0}, tokens, n % 2);
    }
    for (const size_t cols : {127u, 128u, 129u, 300u, 511u, 1000u})
      for (const size_t group : {size_t{16}, size_t{32}, size_t{64}, size_t{128}, size_t{256}, cols, cols + 9}) {
        ASSERT_TRUE(accepts_level_group(group, cols));
        check(grids, {9, cols, group, some_levels(), 1, false}, tokens, 0);
      }
  }
}

TEST_P(Grids, Fp8AgreesWithDouble) {
  const GridTable& grids = grid_table(table());
  for (size_t tokens = 1; tokens <= kFewTokens; ++tokens) {
    for (size_t n = 1; n <= 70; ++n) {
      for (const size_t group : {size_t{7}, size_t{16}, size_t{32}, n})
        check(grids, {5, n, group, {}, n % 3, false}, tokens, n % 2);
      check(grids, {n, 40, 16, {}, n % 3, n % 4 == 0}, tokens, n % 2);
    }
    for (const size_t group : {16u, 50u, 64u, 128u, 1000u}) check(grids, {9, 1000, group, {}, 1, false}, tokens, 0);
  }
}

TEST_P(Grids, Fp8KeepsNaN) {
  const GridTable& grids = grid_table(table());
  for (const size_t at : {0u, 15u, 16u, 39u, 40u}) {
    Weight w(6, 41, 16, {}, 0, false);
    w.codes[2 * 41 + at] = at % 2 == 0 ? 127 : 255;
    const std::vector<float> y = run(grids, w, random_floats(3 * 41, 1), 3, 41, 6, 0);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i % 6 == 2) << at;
  }
}

TEST_P(Grids, RowsDoNotInfluenceEachOther) {
  const GridTable& grids = grid_table(table());
  for (const bool levels : {false, true}) {
    const Weight w(11, 300, 32, levels ? some_levels() : std::vector<float>{}, 0, false);
    for (size_t tokens = 1; tokens <= kFewTokens; ++tokens) {
      const std::vector<float> x = random_floats(tokens * 300, 1);
      const std::vector<float> whole = run(grids, w, x, tokens, 300, 11, 0);
      for (size_t r = 0; r < 11; ++r) {
        Weight one = w;
        one.rows = 1;
        one.codes.assign(w.codes.begin() + static_cast<ptrdiff_t>(r * w.stride),
                         w.codes.begin() + static_cast<ptrdiff_t>((r + 1) * w.stride));
        one.scales.assign(w.scales.begin() + static_cast<ptrdiff_t>(r * w.scale_stride),
                          w.scales.begin() + static_cast<ptrdiff_t>((r + 1) * w.scale_stride));
        const std::vector<float> alone = run(grids, one, x, tokens, 300, 1, 0);
        for (size_t t = 0; t < tokens; ++t) ASSERT_EQ(alone[t], whole[t * 11 + r]) << tokens << " tokens";
      }
    }
  }
}

TEST_P(Grids, DequantizeEveryCodeAndLength) {
  const GridTable& grids = grid_table(table());
  const std::vector<float> levels = some_levels();
  for (const float scale : {0.3f, -1.7e-3f, 1e36f}) {
    for (const size_t n : lengths()) {
      const std::vector<uint8_t> bytes = random_bytes(n, n), codes = random_bytes(n, n, 16);
      std::vector<float> out(n);
      grids.scale_levels(codes.data(), levels.data(), scale, out.data(), n);
      for (size_t i = 0; i < n; ++i)
        ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(scale * levels[codes[i]])) << n;
      grids.scale_fp8(bytes.data(), scale, out.data(), n);
      for (size_t i = 0; i < n; ++i) {
        if ((bytes[i] & 127) == 127) {
          ASSERT_TRUE(std::isnan(out[i]));
        } else {
          const float want = scale * static_cast<float>(fp8(bytes[i]));
          ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(want)) << static_cast<int>(bytes[i]);
        }
      }
    }
  }
}

NIBBLE_FOR_EVERY_TABLE(Grids);

}  // namespace
}  // namespace nibble::kernels
