#include <gmock/gmock.h>

#include <vector>

#include "core/random.h"
#include "quant/sample_matrices.h"
#include "quant/weight_matrix.h"

namespace nibble {
namespace {

constexpr size_t kCols = 96;

WeightMatrix weight(bool int8, size_t rows, size_t group) {
  const QuantSpec spec = {.bits = 4, .group = group};
  PackedMatrixBuilder builder(spec, rows, kCols);
  builder.add(0, testing_support::random_matrix(spec, rows, kCols, rows));
  PackedMatrix packed = builder.finish();
  return int8 ? WeightMatrix(Int8Matrix(packed)) : WeightMatrix(std::move(packed));
}

// Runs of weights that can share, interrupted by such that cannot, and a run longer than what is handed over at once.
TEST(SharedProducts, EqualTheSingleProducts) {
  std::vector<WeightMatrix> weights;
  for (const size_t rows : {5u, 16u, 33u, 7u, 20u, 18u}) weights.push_back(weight(true, rows, 32));
  weights.push_back(weight(false, 9, 32));
  weights.push_back(weight(true, 12, 48));
  weights.push_back(weight(true, 13, 32));
  weights.push_back(weight(true, 14, 32));
  weights.back().activations = {.mode = ActivationSpec::Mode::kDynamicPerToken};
  for (const size_t tokens : {1u, 3u, 20u}) {
    Random random(tokens);
    std::vector<float> x(tokens * kCols);
    for (float& value : x) value = static_cast<float>(random.uniform() - 0.5);
    const MatrixView<const float> in = matrix<const float>(x.data(), tokens, kCols);
    std::vector<std::vector<float>> outputs(weights.size()), biases(weights.size());
    std::vector<Product> products;
    for (size_t i = 0; i < weights.size(); ++i) {
      outputs[i].resize(tokens * weights[i].rows());
      if (i % 2 == 0) biases[i].assign(weights[i].rows(), static_cast<float>(i));
      products.push_back({&weights[i], biases[i].empty() ? nullptr : biases[i].data(),
                          matrix(outputs[i].data(), tokens, weights[i].rows())});
    }
    multiply(products, in);
    for (size_t i = 0; i < weights.size(); ++i) {
      std::vector<float> alone(outputs[i].size());
      multiply(weights[i], in, products[i].bias, matrix(alone.data(), tokens, weights[i].rows()));
      EXPECT_EQ(outputs[i], alone) << "weight " << i << ", " << tokens << " tokens";
    }
  }
}

}  // namespace
}  // namespace nibble
