#include "kernels/gemm.h"

#include <algorithm>
#include <cmath>

#include "kernels/gemm_cases.h"

namespace nibble::kernels {
namespace {

class Gemm : public EveryTable {};

struct Product {
  using Loader = RowLoader;
  using Element = float;
  const Table& table;

  static float stored(float value) { return value; }
  static double weight(float value) { return static_cast<double>(value); }
  static double input(float value) { return static_cast<double>(value); }
  void multiply(MatrixView<const float> x, const RowLoader& w, const float* bias, MatrixView<float> y) const {
    gemm(table, x, w, bias, y);
  }
};

TEST_P(Gemm, EverySmallExtent) { check_every_small_extent(Product{table()}); }

TEST_P(Gemm, SampledShapes) { check_sampled_shapes(Product{table()}); }

TEST_P(Gemm, DeeperThanOneBlockAndWiderThanOneRange) {
  const Product product{table()};
  check_product(product, 31, 200, 383, 0, true);
  check_product(product, 31, 65, 384, 1, false);
  check_product(product, 17, 129, 385, 0, false);
  check_product(product, 5, 67, 1533, 3, true);
}

TEST_P(Gemm, TheThreadCountChangesNothing) { check_thread_counts(Product{table()}); }

NIBBLE_FOR_EVERY_TABLE(Gemm);

}  // namespace
}  // namespace nibble::kernels
