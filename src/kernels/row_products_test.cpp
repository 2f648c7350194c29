#include "kernels/row_products.h"

#include <cmath>

#include "core/half.h"
#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class RowProducts : public EveryTable {};

// Weights [rows, cols] in one type, and the values that they stand for.
template <class Element>
struct Weights {
  std::vector<Element> stored;
  std::vector<float> values;
};

Weights<float> weights_f32(size_t n) { return {random_floats(n, n + 1), random_floats(n, n + 1)}; }
Weights<uint16_t> weights_f16(size_t n) {
  Weights<uint16_t> w;
  for (const float value : random_floats(n, n + 1)) {
    w.stored.push_back(f32_to_f16(value));
    w.values.push_back(f16_to_f32(w.stored.back()));
  }
  return w;
}
Weights<uint16_t> weights_bf16(size_t n) {
  Weights<uint16_t> w;
  for (const float value : random_floats(n, n + 1)) {
    w.stored.push_back(f32_to_bf16(value));
    w.values.push_back(bf16_to_f32(w.stored.back()));
  }
  return w;
}

template <class Element>
void check(void (*products)(const DenseRows&) noexcept, const Weights<Element>& w, size_t tokens, size_t rows,
           size_t cols, size_t pad) {
  const size_t x_stride = cols + pad, y_stride = rows + pad;
  const std::vector<float> x = random_floats(tokens * x_stride - pad, cols + 2);
  std::vector<float> y(tokens * y_stride - pad, 99.0f);
  products({w.stored.data(), rows, cols, x.data(), tokens, x_stride, y.data(), y_stride});
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t t = i / y_stride, r = i % y_stride;
    if (r >= rows) {
      ASSERT_EQ(y[i], 99.0f) << "padding of y was written";
      continue;
    }
    double want = 0, magnitude = 0;
    for (size_t c = 0; c < cols; ++c) {
      const double term = static_cast<double>(x[t * x_stride + c]) * static_cast<double>(w.values[r * cols + c]);
      want += term, magnitude += std::abs(term);
    }
    ASSERT_NEAR(y[i], want, 1e-6 * magnitude) << tokens << " x " << rows << " x " << cols << " at " << t << ", " << r;
  }
}

void check(const RowTable& table, size_t tokens, size_t rows, size_t cols, size_t pad) {
  check(table.f32, weights_f32(rows * cols), tokens, rows, cols, pad);
  check(table.f16, weights_f16(rows * cols), tokens, rows, cols, pad);
  check(table.bf16, weights_bf16(rows * cols), tokens, rows, cols, pad);
}

TEST_P(RowProducts, AgreeWithDoubleToRoundingError) {
  const RowTable& rows = row_table(table());
  EXPECT_EQ(rows.kernels, table().name);
  for (size_t tokens = 1; tokens <= kFewTokens; ++tokens) {
    for (size_t n = 0; n <= 70; ++n) {
      check(rows, tokens, 5, n, n % 3);
      check(rows, tokens, n, 19, n % 3);
    }
    check(rows, tokens, 9, 1000, 1);
  }
}

// A row's result does not depend on how many rows go with it.
TEST_P(RowProducts, RowsDoNotInfluenceEachOther) {
  const RowTable& rows = row_table(table());
  constexpr size_t kRows = 11, kCols = 333;
  const std::vector<uint16_t> w = weights_bf16(kRows * kCols).stored;
  for (size_t tokens = 1; tokens <= kFewTokens; ++tokens) {
    const std::vector<float> x = random_floats(tokens * kCols, 1);
    std::vector<float> whole(tokens * kRows), parts(tokens * kRows);
    rows.bf16({w.data(), kRows, kCols, x.data(), tokens, kCols, whole.data(), kRows});
    for (const size_t cut : {size_t{1}, size_t{3}, size_t{6}}) {
      rows.bf16({w.data(), cut, kCols, x.data(), tokens, kCols, parts.data(), kRows});
      rows.bf16({w.data() + cut * kCols, kRows - cut, kCols, x.data(), tokens, kCols, parts.data() + cut, kRows});
      ASSERT_EQ(parts, whole) << tokens << " tokens, cut at " << cut;
    }
  }
}

NIBBLE_FOR_EVERY_TABLE(RowProducts);

}  // namespace
}  // namespace nibble::kernels
