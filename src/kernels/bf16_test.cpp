#include "kernels/bf16.h"

#include <algorithm>
#include <cmath>

#include "core/half.h"
#include "core/threads.h"
#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

// Each table of this CPU with its bf16 instructions and without any.
struct Units {
  const Table* table;
  const Bf16Table* units;
};

std::vector<Units> every_units() {
  std::vector<Units> all;
  for (const Table* table : available()) {
    if (const Bf16Table* units = find_bf16(*table)) all.push_back({table, units});
    all.push_back({table, nullptr});
  }
  return all;
}

class GemmBf16 : public testing::TestWithParam<Units> {};
INSTANTIATE_TEST_SUITE_P(Isa, GemmBf16, testing::ValuesIn(every_units()), [](const auto& parameter) {
  const Units& chosen = parameter.param;
  return std::string(chosen.units != nullptr ? chosen.units->name : chosen.table->name);
});

std::vector<uint16_t> random_halves(size_t n, uint64_t seed) {
  std::vector<uint16_t> out;
  for (const float value : random_floats(n, seed)) out.push_back(f32_to_bf16(value));
  return out;
}

// A weight held in a buffer of exactly rows x cols.
struct Weight {
  size_t rows, cols;
  std::vector<uint16_t> values;
  Bf16Loader loader() const {
    return {this, [](const void* self, size_t row, size_t begin, size_t count, uint16_t* out) noexcept {
              const auto& weight = *static_cast<const Weight*>(self);
              std::copy_n(weight.values.data() + row * weight.cols + begin, count, out);
            }};
  }
};

void check(const Units& run, size_t tokens, size_t rows, size_t depth, size_t pad, bool with_bias) {
  const Weight w = {rows, depth, random_halves(rows * depth, rows + 1)};
  const std::vector<float> bias = random_floats(rows, 5);
  const size_t x_stride = depth + pad, y_stride = rows + pad;
  const std::vector<float> x = random_floats(tokens == 0 ? 0 : tokens * x_stride - pad, depth + 2);
  std::vector<float> y(tokens == 0 ? 0 : tokens * y_stride - pad, 99.0f);
  gemm_bf16(*run.table, run.units, {x.data(), tokens, depth, x_stride}, w.loader(), with_bias ? bias.data() : nullptr,
            {y.data(), tokens, rows, y_stride});
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t t = i / y_stride, r = i % y_stride;
    if (r >= rows) {
      ASSERT_EQ(y[i], 99.0f) << "padding of y was written";
      continue;
    }
    double want = with_bias ? static_cast<double>(bias[r]) : 0, magnitude = std::abs(want);
    for (size_t c = 0; c < depth; ++c) {
      const double term = static_cast<double>(bf16_to_f32(f32_to_bf16(x[t * x_stride + c]))) *
                          static_cast<double>(bf16_to_f32(w.values[r * depth + c]));
      want += term, magnitude += std::abs(term);
    }
    ASSERT_NEAR(y[i], want, 2e-6 * magnitude) << tokens << " x " << rows << " x " << depth << " at " << t << ", " << r;
  }
}

TEST_P(GemmBf16, EverySmallExtent) {
  for (size_t n = 0; n <= 70; ++n) {
    check(GetParam(), n, 37, 21, n % 3, n % 2 == 0);
    check(GetParam(), 15, n, 19, n % 3, n % 2 == 1);
    check(GetParam(), 9, 33, n, n % 3, n % 2 == 0);
  }
}

TEST_P(GemmBf16, SampledShapes) {
  Random random(3);
  for (int i = 0; i < 60; ++i)
    check(GetParam(), 1 + random.next() % 70, 1 + random.next() % 70, 1 + random.next() % 70, random.next() % 5,
          i % 2 == 0);
}

TEST_P(GemmBf16, DeeperThanOneBlockAndWiderThanOneRange) {
  check(GetParam(), 31, 200, 767, 0, true);
  check(GetParam(), 31, 65, 768, 1, false);
  check(GetParam(), 17, 129, 769, 0, false);
  check(GetParam(), 5, 67, 1539, 3, true);
}

TEST_P(GemmBf16, TheThreadCountChangesNothing) {
  const Weight w = {301, 900, random_halves(301 * 900, 1)};
  const std::vector<float> x = random_floats(23 * 900, 2);
  std::vector<float> results[3];
  size_t threads = 1;
  for (std::vector<float>& y : results) {
    y.resize(23 * 301);
    set_thread_count(threads++);
    gemm_bf16(*GetParam().table, GetParam().units, matrix(x.data(), 23, 900), w.loader(), nullptr,
              matrix(y.data(), 23, 301));
  }
  set_thread_count(0);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

void check_packing(const Bf16Table& units, size_t rows, size_t cols) {
  const size_t in_stride = cols + 3, out_stride = rows + 2, pairs = (cols + 1) / 2;
  const std::vector<uint16_t> in = random_halves(rows == 0 ? 0 : rows * in_stride - 3, rows);
  std::vector<uint16_t> out(pairs == 0 ? 0 : 2 * (pairs * out_stride - 2), 7);
  units.pack_pairs(in.data(), in_stride, rows, cols, out.data(), out_stride);
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t r = i / 2 % out_stride, c = i / (2 * out_stride) * 2 + i % 2;
    const uint16_t want = r >= rows ? uint16_t{7} : c < cols ? in[r * in_stride + c] : uint16_t{0};
    ASSERT_EQ(out[i], want) << rows << " x " << cols << " at " << r << ", " << c;
  }
}

TEST(Bf16Units, PackEveryShape) {
  for (const Table* table : available())
    if (const Bf16Table* units = find_bf16(*table))
      for (size_t rows = 0; rows <= 40; ++rows)
        for (size_t cols = 0; cols <= 70; ++cols) check_packing(*units, rows, cols);
}

}  // namespace
}  // namespace nibble::kernels
