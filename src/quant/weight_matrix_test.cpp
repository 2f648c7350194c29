#include "quant/weight_matrix.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "core/threads.h"
#include "quant/activations.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

std::vector<float> random_floats(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(n);
  for (float& value : out) value = static_cast<float>(random.uniform() * 2 - 1);
  return out;
}

// A weight with the values that it stands for.
struct Sample {
  std::string name;
  WeightMatrix weight;
  std::vector<float> values;  // [rows, cols]
};

Sample dense(DType dtype, size_t rows, size_t cols) {
  Sample sample;
  sample.name = info(dtype).name;
  sample.values = random_floats(rows * cols, rows);
  auto bytes = std::make_shared<std::vector<std::byte>>(byte_size(dtype, rows * cols));
  for (size_t i = 0; i < sample.values.size(); ++i) {
    float& value = sample.values[i];
    const uint16_t half = dtype == DType::kF16 ? f32_to_f16(value) : f32_to_bf16(value);
    if (dtype == DType::kF32)
      std::memcpy(bytes->data() + 4 * i, &value, 4);
    else
      std::memcpy(bytes->data() + 2 * i, &half, 2);
    if (dtype == DType::kF16) value = f16_to_f32(half);
    if (dtype == DType::kBF16) value = bf16_to_f32(half);
  }
  sample.weight = WeightMatrix(DenseMatrix{dtype, rows, cols, bytes->data(), bytes});
  return sample;
}

Sample packed(const QuantSpec& spec, size_t rows, size_t cols) {
  const QuantizedMatrix q = testing_support::random_matrix(spec, rows, cols, rows + cols);
  PackedMatrixBuilder builder(spec, rows, cols);
  builder.add(0, q);
  return {describe(spec), WeightMatrix(builder.finish()), testing_support::values_of(q)};
}

std::vector<Sample> samples(size_t rows, size_t cols) {
  std::vector<Sample> all;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) all.push_back(dense(dtype, rows, cols));
  all.push_back(packed({.bits = 4, .group = 32}, rows, cols));
  all.push_back(packed({.bits = 3, .group = 50, .symmetric = false}, rows, cols));
  all.push_back(packed({.bits = 4, .group = 64, .grid = Grid::kNF4}, rows, cols));
  all.push_back(packed({.bits = 8, .group = QuantSpec::kWholeRow}, rows, cols));
  for (const Grid grid : {Grid::kFP4, Grid::kIQ4NL, Grid::kFP4Bnb}) {
    all.push_back(packed({.bits = 4, .group = 32, .grid = grid}, rows, cols));
    all.push_back(packed({.bits = 4, .group = QuantSpec::kWholeRow, .per_tensor = true, .grid = grid}, rows, cols));
  }
  all.push_back(packed({.bits = 4, .group = 48, .grid = Grid::kNF4}, rows, cols));
  all.push_back(packed({.bits = 8, .group = QuantSpec::kWholeRow, .grid = Grid::kFP8}, rows, cols));
  all.push_back(packed({.bits = 8, .group = QuantSpec::kWholeRow, .per_tensor = true, .grid = Grid::kFP8}, rows, cols));
  return all;
}

TEST(WeightMatrix, LoadsAnyStretchOfARow) {
  for (const Sample& sample : samples(3, 70)) {
    EXPECT_EQ(sample.weight.rows(), 3u);
    EXPECT_EQ(sample.weight.cols(), 70u);
    for (size_t begin = 0; begin <= 70; begin += 7) {
      for (const size_t end : {begin, (begin + 71) / 2, size_t{70}}) {
        std::vector<float> out(end - begin);
        sample.weight.load_row(2, begin, out.size(), out.data());
        const auto row = sample.values.begin() + 2 * 70;
        EXPECT_EQ(out, std::vector<float>(row + static_cast<ptrdiff_t>(begin), row + static_cast<ptrdiff_t>(end)))
            << sample.name << " from " << begin;
      }
    }
  }
}

TEST(WeightMatrix, CountsItsBytes) {
  EXPECT_EQ(dense(DType::kF32, 3, 70).weight.bytes(), 840u);
  EXPECT_EQ(dense(DType::kBF16, 3, 70).weight.bytes(), 420u);
  EXPECT_EQ(packed({.bits = 4, .group = 35}, 3, 70).weight.bytes(), 3 * 35 + 3 * 2 * 4u);
}

TEST(WeightMatrix, EmptyByDefault) {
  const WeightMatrix none;
  EXPECT_EQ(none.rows(), 0u);
  EXPECT_EQ(none.bytes(), 0u);
  multiply(none, {}, nullptr, {});
}

TEST(WeightMatrix, RefusesOtherTypes) {
  EXPECT_THAT(testing_support::message_of([] {
                WeightMatrix(DenseMatrix{DType::kF64, 1, 1, nullptr, nullptr});
              }),
              testing::HasSubstr("F64"));
}

std::vector<float> product(const Sample& sample, size_t tokens, const float* bias, size_t pad) {
  const size_t cols = sample.weight.cols(), rows = sample.weight.rows();
  const std::vector<float> x = random_floats(tokens * (cols + pad), 3);
  std::vector<float> y(tokens * (rows + pad), 99.0f);
  multiply(sample.weight, {x.data(), tokens, cols, cols + pad}, bias, {y.data(), tokens, rows, rows + pad});
  return y;
}

void check(const Sample& sample, size_t tokens, bool with_bias, size_t pad) {
  const size_t cols = sample.weight.cols(), rows = sample.weight.rows();
  const std::vector<float> x = random_floats(tokens * (cols + pad), 3), bias = random_floats(rows, 4);
  const std::vector<float> y = product(sample, tokens, with_bias ? bias.data() : nullptr, pad);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t r = 0; r < rows; ++r) {
      double want = with_bias ? static_cast<double>(bias[r]) : 0, magnitude = std::abs(want);
      for (size_t c = 0; c < cols; ++c) {
        const double term =
            static_cast<double>(x[t * (cols + pad) + c]) * static_cast<double>(sample.values[r * cols + c]);
        want += term, magnitude += std::abs(term);
      }
      ASSERT_NEAR(y[t * (rows + pad) + r], want, 1e-6 * magnitude)
          << sample.name << ", " << tokens << " tokens, " << rows << " x " << cols << " at " << t << ", " << r;
    }
    for (size_t r = rows; r < rows + pad; ++r) ASSERT_EQ(y[t * (rows + pad) + r], 99.0f);
  }
}

TEST(Multiply, AgreesWithDouble) {
  for (const size_t tokens : {0u, 1u, 2u, 3u, 4u, 5u, 8u, 16u, 17u, 40u})
    for (const size_t cols : {1u, 31u, 64u, 257u})
      for (const size_t rows : {1u, 9u, 50u})
        for (const Sample& sample : samples(rows, cols)) check(sample, tokens, tokens % 2 == 0, tokens % 3);
}

// Inputs are rounded; weights are, or keep their bits, but all the same.
TEST(Multiply, InBf16) {
  const auto rounded = [](float value) { return static_cast<double>(bf16_to_f32(f32_to_bf16(value))); };
  for (const size_t tokens : {1u, 2u, 3u, 7u, 8u, 9u, 20u}) {
    for (const size_t cols : {1u, 64u, 257u, 2500u}) {
      for (Sample& sample : samples(21, cols)) {
        sample.weight.bf16_products = true;
        const std::vector<float> x = random_floats(tokens * (cols + 1), 3), bias = random_floats(21, 4);
        const std::vector<float> y = product(sample, tokens, bias.data(), 1);
        bool exact = true, narrow = true;
        for (size_t t = 0; t < tokens; ++t) {
          for (size_t r = 0; r < 21; ++r) {
            double with_exact = bias[r], with_narrow = bias[r], magnitude = std::abs(with_exact);
            for (size_t c = 0; c < cols; ++c) {
              const double input = rounded(x[t * (cols + 1) + c]);
              const float weight = sample.values[r * cols + c];
              with_exact += input * static_cast<double>(weight), with_narrow += input * rounded(weight);
              magnitude += std::abs(input * static_cast<double>(weight));
            }
            const double got = y[t * 22 + r], bound = 2e-6 * magnitude;
            exact = exact && std::abs(got - with_exact) <= bound;
            narrow = narrow && std::abs(got - with_narrow) <= bound;
          }
        }
        EXPECT_TRUE(exact || narrow) << sample.name << ", " << tokens << " tokens, " << cols << " columns";
      }
    }
  }
}

TEST(Multiply, RowsLongerThanOneStretch) {
  for (const size_t tokens : {1u, 3u, 20u})
    for (const Sample& sample : samples(5, 2500)) check(sample, tokens, true, 1);
}

TEST(Multiply, TheThreadCountChangesNothing) {
  for (const Sample& base : samples(311, 600)) {
    for (const auto mode : {ActivationSpec::Mode::kNone, ActivationSpec::Mode::kDynamicPerToken}) {
      Sample sample = base;
      sample.weight.activations.mode = mode;
      for (const size_t tokens : {1u, 3u, 33u}) {
        set_thread_count(1);
        const std::vector<float> one = product(sample, tokens, nullptr, 0);
        set_thread_count(2);
        EXPECT_EQ(product(sample, tokens, nullptr, 0), one) << sample.name;
        set_thread_count(5);
        EXPECT_EQ(product(sample, tokens, nullptr, 0), one) << sample.name;
      }
    }
  }
  set_thread_count(0);
}

TEST(Multiply, QuantizesEachTokenFirst) {
  const ActivationSpec spec = {ActivationSpec::Mode::kDynamicPerToken, 4, false, Grid::kInt};
  for (const size_t tokens : {2u, 30u}) {
    Sample sample = dense(DType::kBF16, 40, 90);
    const std::vector<float> x = random_floats(tokens * 91, 5);
    std::vector<float> rounded(tokens * 90), want(tokens * 40), got(tokens * 40);
    for (size_t t = 0; t < tokens; ++t) quantize_token(spec, x.data() + t * 91, rounded.data() + t * 90, 90);
    multiply(sample.weight, matrix<const float>(rounded.data(), tokens, 90), nullptr, matrix(want.data(), tokens, 40));
    sample.weight.activations = spec;
    multiply(sample.weight, {x.data(), tokens, 90, 91}, nullptr, matrix(got.data(), tokens, 40));
    EXPECT_EQ(got, want);
  }
}

}  // namespace
}  // namespace nibble
