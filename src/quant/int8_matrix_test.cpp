#include "quant/int8_matrix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/threads.h"
#include "quant/sample_matrices.h"
#include "quant/weight_matrix.h"

namespace nibble {
namespace {

using namespace testing_support;

PackedMatrix pack(const QuantizedMatrix& q) {
  PackedMatrixBuilder builder(q.spec, q.rows, q.cols);
  builder.add(0, q);
  return builder.finish();
}

// Every width, kind of zero and group that int8 takes.
std::vector<QuantSpec> accepted_specs() {
  std::vector<QuantSpec> specs;
  for (int bits = 1; bits <= 8; ++bits)
    for (const size_t group : {size_t{16}, size_t{32}, size_t{48}, size_t{64}, size_t{128}, QuantSpec::kWholeRow}) {
      specs.push_back({.bits = bits, .group = group});
      specs.push_back({.bits = bits, .group = group, .symmetric = false});
      specs.push_back({.bits = bits, .group = group, .symmetric = false, .mins = true});
    }
  specs.push_back({.bits = 4, .group = 0, .per_tensor = true});
  specs.push_back({.bits = 8, .group = 4096, .symmetric = false});
  return specs;
}

std::vector<float> activations(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> x(n);
  for (float& value : x)
    value = static_cast<float>(random.uniform() * 4 - 2) * (random.uniform() < 0.02 ? 50.0f : 1.0f);
  return x;
}

// What multiply() has to compute: the quantizer of the activations restated, the sum in double.
void expect_product(const QuantizedMatrix& q, const std::vector<float>& x, size_t tokens, const float* bias,
                    const std::vector<float>& y, size_t y_stride) {
  const std::vector<float> w = values_of(q);
  for (size_t t = 0; t < tokens; ++t) {
    std::vector<double> rounded(q.cols);
    for (size_t b = 0; b < q.cols; b += 32) {
      const size_t end = std::min(q.cols, b + 32);
      std::vector<float> sizes = {0, 0};
      for (size_t c = b; c < end; ++c) sizes.push_back(std::abs(x[t * q.cols + c]));
      std::sort(sizes.rbegin(), sizes.rend());
      const bool outlier = sizes[0] > 3 * sizes[1];
      const float largest = outlier ? sizes[1] : sizes[0];
      for (size_t c = b; c < end; ++c) {
        const float value = x[t * q.cols + c];
        if (outlier && std::abs(value) == sizes[0])
          rounded[c] = value;
        else if (largest > 0)
          rounded[c] = double(largest / 127.0f) * std::nearbyint(value * (127.0f / largest));
      }
    }
    for (size_t r = 0; r < q.rows; ++r) {
      double want = bias != nullptr ? bias[r] : 0, magnitude = 1e-6;
      for (size_t c = 0; c < q.cols; ++c) {
        const double term = double(w[r * q.cols + c]) * rounded[c];
        want += term;
        magnitude += std::abs(term);
      }
      // Codes far from their zero, or a large min, make the parts larger than their sum.
      const size_t values = size_t{1} << q.spec.bits;
      ASSERT_NEAR(y[t * y_stride + r], want, 2e-6 * magnitude + 1e-7 * static_cast<double>(values * q.cols))
          << describe(q.spec) << " [" << q.rows << ", " << q.cols << "] token " << t << " of " << tokens << " row "
          << r;
    }
  }
}

TEST(Int8Matrix, MultipliesEverySpecAndNumberOfTokens) {
  for (const QuantSpec& spec : accepted_specs()) {
    const size_t rows = 19, cols = 150;
    const QuantizedMatrix q = random_matrix(spec, rows, cols, 1);
    ASSERT_TRUE(Int8Matrix::accepts(pack(q))) << describe(spec);
    const Int8Matrix w(pack(q));
    const std::vector<float> x = activations(40 * cols, 2), bias = activations(rows, 3);
    for (const size_t tokens : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 40u}) {
      std::vector<float> y(tokens * rows);
      const float* b = tokens % 2 == 0 ? bias.data() : nullptr;
      multiply(w, matrix(x.data(), tokens, cols), b, matrix(y.data(), tokens, rows));
      ASSERT_NO_FATAL_FAILURE(expect_product(q, x, tokens, b, y, rows));
    }
  }
}

TEST(Int8Matrix, MultipliesEveryShape) {
  for (size_t rows = 1; rows <= 35; ++rows)
    for (const size_t cols : {1u, 15u, 16u, 17u, 31u, 32u, 33u, 47u, 64u, 95u, 129u})
      for (const int bits : {3, 4}) {
        const QuantizedMatrix q =
            random_matrix({.bits = bits, .group = bits == 3 ? 16u : 64u}, rows, cols, rows + cols);
        const Int8Matrix w(pack(q));
        for (const size_t tokens : {1u, 5u}) {
          const std::vector<float> x = activations(tokens * cols, 7);
          std::vector<float> y(tokens * rows);
          multiply(w, matrix(x.data(), tokens, cols), nullptr, matrix(y.data(), tokens, rows));
          ASSERT_NO_FATAL_FAILURE(expect_product(q, x, tokens, nullptr, y, rows));
        }
      }
}

TEST(Int8Matrix, ATokenDoesNotDependOnItsNeighboursOrOnThreads) {
  const QuantizedMatrix q = random_matrix({.bits = 5, .group = 32, .symmetric = false}, 200, 320, 4);
  const Int8Matrix w(pack(q));
  const std::vector<float> x = activations(40 * 320, 5);
  std::vector<float> one(200), many(40 * 200), threaded(40 * 200);
  multiply(w, matrix(x.data(), 40, 320), nullptr, matrix(many.data(), 40, 200));
  const size_t before = thread_count();
  set_thread_count(3);
  multiply(w, matrix(x.data(), 40, 320), nullptr, matrix(threaded.data(), 40, 200));
  set_thread_count(before);
  EXPECT_EQ(many, threaded);
  multiply(w, matrix(x.data() + 39 * 320, 1, 320), nullptr, matrix(one.data(), 1, 200));
  for (size_t r = 0; r < 200; ++r) EXPECT_EQ(one[r], many[39 * 200 + r]) << r;
}

TEST(Int8Matrix, ProductsOfSeveralWeightsAreThoseOfEach) {
  const size_t cols = 160, rows[] = {70, 16, 33};
  std::vector<Int8Matrix> weights;
  for (size_t i = 0; i < 3; ++i)
    weights.emplace_back(pack(random_matrix({.bits = 3 + static_cast<int>(i), .group = 32}, rows[i], cols, i)));
  ASSERT_TRUE(share_activations(weights[0], weights[2]));
  EXPECT_FALSE(share_activations(weights[0], Int8Matrix(pack(random_matrix({.bits = 4, .group = 16}, 1, cols, 1)))));
  const std::vector<float> bias = activations(70, 3);
  for (const size_t tokens : {1u, 3u, 21u}) {
    const std::vector<float> x = activations(tokens * cols, 2);
    std::vector<float> want[3], got[3];
    std::vector<Int8Product> products;
    for (size_t i = 0; i < 3; ++i) {
      want[i].resize(tokens * rows[i]), got[i].resize(tokens * rows[i]);
      const float* const b = i == 1 ? nullptr : bias.data();
      multiply(weights[i], matrix(x.data(), tokens, cols), b, matrix(want[i].data(), tokens, rows[i]));
      products.push_back({&weights[i], b, matrix(got[i].data(), tokens, rows[i])});
    }
    multiply(products, matrix(x.data(), tokens, cols));
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(got[i], want[i]) << i << ", " << tokens;
  }
}

TEST(Int8Matrix, LoadsRowsAsThePackedMatrixDoes) {
  for (const QuantSpec& spec : accepted_specs()) {
    const size_t rows = 18, cols = 150;
    const PackedMatrix packed = pack(random_matrix(spec, rows, cols, 6));
    const WeightMatrix w{Int8Matrix(packed)};
    for (const size_t row : {size_t{0}, size_t{15}, size_t{17}})
      for (const size_t begin : {size_t{0}, size_t{29}}) {
        std::vector<float> want(cols - begin), got(cols - begin);
        packed.load_row(row, begin, cols - begin, want.data());
        w.load_row(row, begin, cols - begin, got.data());
        ASSERT_EQ(want, got) << describe(spec) << " row " << row;
      }
  }
}

TEST(Int8Matrix, CostsItsBitsAndTheNarrowestExactScales) {
  for (int bits = 1; bits <= 8; ++bits) {
    const Int8Matrix w(pack(random_matrix({.bits = bits, .group = 64}, 64, 256, 1)));  // scales that F16 holds
    EXPECT_EQ(w.bytes(), 64u * 256 * static_cast<size_t>(bits) / 8 + 64u * 4 * 2) << bits;
  }
  QuantizedMatrix q = random_matrix({.bits = 4, .group = 64}, 64, 256, 1);
  q.scales[5] = 0.1f;
  EXPECT_EQ(Int8Matrix(pack(q)).bytes(), 64u * 256 / 2 + 64u * 4 * 4);
  q.scales[5] = 0x1p100f;
  const Int8Matrix wide(pack(q));
  EXPECT_EQ(wide.bytes(), 64u * 256 / 2 + 64u * 4 * 2);
  EXPECT_EQ(wide.tile(0).scale_dtype, DType::kBF16);
}

TEST(Int8Matrix, RefusesWhatItCannotOrder) {
  const auto accepts = [](const QuantizedMatrix& q) { return Int8Matrix::accepts(pack(q)); };
  EXPECT_FALSE(accepts(random_matrix({.bits = 4, .group = 64, .grid = Grid::kNF4}, 2, 64, 1)));
  EXPECT_FALSE(accepts(random_matrix({.bits = 4, .group = 24}, 2, 64, 1)));
  EXPECT_TRUE(accepts(random_matrix({.bits = 4, .group = 100}, 2, 64, 1)));
  QuantizedMatrix ordered = random_matrix({.bits = 4, .group = 16}, 1, 32, 1);
  ordered.group_of.assign(32, 1);
  EXPECT_FALSE(accepts(ordered));
}

TEST(Int8Matrix, ActivationsThatAreNotFiniteGiveNaN) {
  const Int8Matrix w(pack(random_matrix({.bits = 4, .group = 32}, 3, 96, 1)));
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    std::vector<float> x = activations(96, 1), y(3);
    x[40] = bad;
    multiply(w, matrix(x.data(), 1, 96), nullptr, matrix(y.data(), 1, 3));
    for (const float value : y) EXPECT_TRUE(std::isnan(value));
  }
}

}  // namespace
}  // namespace nibble
