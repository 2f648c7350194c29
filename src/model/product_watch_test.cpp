#include <gmock/gmock.h>

#include <cmath>

#include "model/decoder.h"
#include "model/product_watch.h"

namespace nibble {
namespace {

constexpr size_t kCols = 64;

WeightMatrix int8_weight(size_t rows) {
  const QuantSpec spec = {.bits = 4, .group = 32};
  QuantizedMatrix q;
  q.spec = spec, q.rows = rows, q.cols = kCols;
  for (size_t i = 0; i < rows * kCols; ++i) q.codes.push_back(static_cast<uint8_t>(1 + 5 * i % 15));
  q.scales.assign(rows * 2, 0.5f);
  PackedMatrixBuilder builder(spec, rows, kCols);
  builder.add(0, q);
  return WeightMatrix(Int8Matrix(builder.finish()));
}

struct Watched {
  ProductWatch watch;
  std::vector<float> x = std::vector<float>(kCols), y;

  // The product, made off by `off` in its first value.
  double error(const WeightMatrix& w, float off) {
    y.assign(w.rows(), 0);
    const Product product{&w, nullptr, matrix(y.data(), 1, w.rows())};
    const auto in = matrix<const float>(x.data(), 1, kCols);
    multiply(std::span(&product, 1), in);
    y[0] += off;
    watch.compare(std::span(&product, 1), in);
    return watch.found().at(0).check.error;
  }
};

TEST(ProductWatch, MeasuresTheRelativeNorm) {
  const WeightMatrix w = int8_weight(3);
  Watched watched;
  watched.watch.name(w, "w");
  watched.x[3] = 127, watched.x[40] = -127;  // held exactly
  EXPECT_LT(watched.error(w, 0), 1e-6);
  double norm = 0;
  for (const float value : watched.y) norm += double(value) * value;
  Watched again;
  again.watch.name(w, "w");
  again.x = watched.x;
  EXPECT_NEAR(again.error(w, 8.0f), 8 / std::sqrt(norm), 1e-5);
  EXPECT_EQ(again.watch.found()[0].check.name, "w");
}

TEST(ProductWatch, SeesActivationsThatInt8CannotHold) {
  const WeightMatrix w = int8_weight(16);
  Watched watched;
  watched.watch.name(w, "w");
  for (size_t c = 0; c < kCols; ++c) watched.x[c] = std::sin(static_cast<float>(c));
  watched.x[3] = 1e4f, watched.x[4] = -1e4f;  // two outliers of a block: one would be taken out
  EXPECT_GT(watched.error(w, 0), 1e-5);
}

TEST(ProductWatch, LeavesOutWhatIsNotInt8OrNeverRan) {
  std::vector<float> values(kCols, 1.0f);
  WeightMatrix dense(DenseMatrix{DType::kF32, 1, kCols, reinterpret_cast<const std::byte*>(values.data()), nullptr});
  const WeightMatrix unused = int8_weight(2);
  ProductWatch watch;
  watch.name(dense, "dense");
  watch.name(unused, "unused");
  float y = 0;
  const Product product{&dense, nullptr, matrix(&y, 1, 1)};
  watch.compare(std::span(&product, 1), matrix<const float>(values.data(), 1, kCols));
  EXPECT_TRUE(watch.found().empty());
}

// From then on the weight computes in float.
TEST(ProductWatch, FloatProductsAreThoseOfTheValues) {
  WeightMatrix w = int8_weight(5);
  w.float_products = true;
  std::vector<float> x(kCols), y(5), row(kCols);
  for (size_t c = 0; c < kCols; ++c) x[c] = std::cos(static_cast<float>(c));
  multiply(w, matrix<const float>(x.data(), 1, kCols), nullptr, matrix(y.data(), 1, 5));
  for (size_t r = 0; r < 5; ++r) {
    double want = 0, magnitude = 0;
    w.load_row(r, 0, kCols, row.data());
    for (size_t c = 0; c < kCols; ++c) want += double(row[c]) * x[c], magnitude += std::abs(double(row[c]) * x[c]);
    EXPECT_NEAR(y[r], want, 1e-6 * magnitude);
  }
}

}  // namespace
}  // namespace nibble
