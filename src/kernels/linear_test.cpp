#include <bit>
#include <cmath>
#include <limits>

#include "core/half.h"
#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class Conversions : public EveryTable {};
class Dots : public EveryTable {};
class Axpy : public EveryTable {};
class Transpose : public EveryTable {};

bool is_nan_f16(uint16_t bits) { return (bits & 0x7fffu) > 0x7c00u; }
bool is_nan_bf16(uint16_t bits) { return (bits & 0x7fffu) > 0x7f80u; }

// All patterns of 16 bits; NaN need only stay NaN.
TEST_P(Conversions, WidensEveryPattern) {
  std::vector<uint16_t> in(65536);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i);
  std::vector<float> f16(in.size()), bf16(in.size());
  table().f16_to_f32(in.data(), f16.data(), in.size());
  table().bf16_to_f32(in.data(), bf16.data(), in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    if (is_nan_f16(in[i])) {
      EXPECT_TRUE(std::isnan(f16[i])) << i;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(f16[i]), std::bit_cast<uint32_t>(f16_to_f32(in[i]))) << i;
    }
    if (is_nan_bf16(in[i])) {
      EXPECT_TRUE(std::isnan(bf16[i])) << i;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(bf16[i]), static_cast<uint32_t>(i) << 16);
    }
  }
}

// Around every representable half and every tie between two of them, and random bit patterns.
TEST_P(Conversions, NarrowsToNearestEven) {
  std::vector<float> in;
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float value = f16_to_f32(static_cast<uint16_t>(bits)), next = f16_to_f32(static_cast<uint16_t>(bits + 1));
    const float tie = std::isinf(next) ? 65520.0f : (value + next) / 2;
    for (const float candidate : {value, tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e9f)}) {
      in.push_back(candidate);
      in.push_back(-candidate);
    }
  }
  Random random(1);
  for (size_t i = 0; i < 100001; ++i) in.push_back(std::bit_cast<float>(static_cast<uint32_t>(random.next())));
  for (const float special : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::quiet_NaN(), std::bit_cast<float>(0x7f800001u)})
    in.push_back(special);
  std::vector<uint16_t> f16(in.size()), bf16(in.size());
  table().f32_to_f16(in.data(), f16.data(), in.size());
  table().f32_to_bf16(in.data(), bf16.data(), in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    if (std::isnan(in[i])) {
      EXPECT_TRUE(is_nan_f16(f16[i]) && is_nan_bf16(bf16[i])) << i;
    } else {
      ASSERT_EQ(f16[i], f32_to_f16(in[i])) << in[i];
      ASSERT_EQ(bf16[i], f32_to_bf16(in[i])) << in[i];
    }
  }
}

TEST_P(Conversions, EveryLength) {
  for (const size_t n : lengths()) {
    const std::vector<float> in = random_floats(n, n);
    std::vector<uint16_t> f16(n), bf16(n);
    table().f32_to_f16(in.data(), f16.data(), n);
    table().f32_to_bf16(in.data(), bf16.data(), n);
    std::vector<float> from_f16(n), from_bf16(n);
    table().f16_to_f32(f16.data(), from_f16.data(), n);
    table().bf16_to_f32(bf16.data(), from_bf16.data(), n);
    for (size_t i = 0; i < n; ++i) {
      ASSERT_EQ(from_f16[i], f16_to_f32(f32_to_f16(in[i]))) << n;
      ASSERT_EQ(from_bf16[i], bf16_to_f32(f32_to_bf16(in[i]))) << n;
    }
  }
}

TEST_P(Dots, AgreeWithDoubleToRoundingError) {
  for (const size_t n : lengths()) {
    const std::vector<float> w = random_floats(n, n + 1), x = random_floats(n, n + 2);
    std::vector<uint16_t> f16(n), bf16(n);
    double want[3] = {}, magnitude = 0;
    for (size_t i = 0; i < n; ++i) {
      f16[i] = f32_to_f16(w[i]), bf16[i] = f32_to_bf16(w[i]);
      const double input = x[i];
      want[0] += static_cast<double>(w[i]) * input;
      want[1] += static_cast<double>(f16_to_f32(f16[i])) * input;
      want[2] += static_cast<double>(bf16_to_f32(bf16[i])) * input;
      magnitude += std::abs(static_cast<double>(w[i]) * input);
    }
    const double bound = 1e-6 * magnitude;
    EXPECT_NEAR(table().dot_f32(w.data(), x.data(), n), want[0], bound) << "n=" << n;
    EXPECT_NEAR(table().dot_f16(f16.data(), x.data(), n), want[1], bound) << "n=" << n;
    EXPECT_NEAR(table().dot_bf16(bf16.data(), x.data(), n), want[2], bound) << "n=" << n;
  }
}

TEST_P(Axpy, AddsToEveryElement) {
  for (const size_t n : lengths()) {
    const std::vector<float> x = random_floats(n, n + 1), start = random_floats(n, n + 2);
    std::vector<uint16_t> f16(n), bf16(n);
    for (size_t i = 0; i < n; ++i) f16[i] = f32_to_f16(x[i]), bf16[i] = f32_to_bf16(x[i]);
    std::vector<float> y[3] = {start, start, start};
    table().axpy_f32(0.7f, x.data(), y[0].data(), n);
    table().axpy_f16(0.7f, f16.data(), y[1].data(), n);
    table().axpy_bf16(0.7f, bf16.data(), y[2].data(), n);
    for (size_t i = 0; i < n; ++i) {
      const float inputs[3] = {x[i], f16_to_f32(f16[i]), bf16_to_f32(bf16[i])};
      for (size_t k = 0; k < 3; ++k)
        ASSERT_NEAR(y[k][i], static_cast<double>(start[i]) + static_cast<double>(0.7f) * static_cast<double>(inputs[k]),
                    2e-7)
            << "n=" << n << " i=" << i;
    }
  }
}

TEST_P(Transpose, EveryShapeWithStrides) {
  for (size_t rows = 0; rows <= 40; ++rows) {
    for (const size_t cols : {0u, 1u, 7u, 8u, 9u, 16u, 31u, 70u}) {
      const size_t in_stride = cols + 3, out_stride = rows + 2;
      const std::vector<float> in = random_floats(rows == 0 ? 0 : rows * in_stride - 3, rows);
      std::vector<float> out(cols == 0 ? 0 : cols * out_stride - 2, -9.0f);
      table().transpose(in.data(), in_stride, rows, cols, out.data(), out_stride);
      for (size_t i = 0; i < out.size(); ++i) {
        const size_t c = i / out_stride, r = i % out_stride;
        ASSERT_EQ(out[i], r < rows ? in[r * in_stride + c] : -9.0f) << rows << "x" << cols;
      }
    }
  }
}

NIBBLE_FOR_EVERY_TABLE(Conversions);
NIBBLE_FOR_EVERY_TABLE(Dots);
NIBBLE_FOR_EVERY_TABLE(Axpy);
NIBBLE_FOR_EVERY_TABLE(Transpose);

}  // namespace
}  // namespace nibble::kernels
