#include "kernels/grid_errors.h"

#include <algorithm>
#include <cmath>

#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class GridErrorKernels : public EveryTable {};

TEST_P(GridErrorKernels, AgreeWithDouble) {
  const GridErrorTable& t = grid_error_table(table());
  EXPECT_EQ(t.kernels, table().name);
  for (const size_t grids : lengths())
    for (const size_t weights : {0u, 1u, 33u}) {
      if (grids > 200 && weights > 1) continue;
      const auto w = random_floats(weights, 1);
      auto h = random_floats(weights, 2);
      for (float& x : h) x = std::abs(x);
      auto scale = random_floats(grids, 3);
      std::vector<float> inverse, low, high, errors(grids, 99.0f);
      for (size_t i = 0; i < grids; ++i) {
        scale[i] = std::copysign(0.1f + std::abs(scale[i]), scale[i]);
        inverse.push_back(1.0f / scale[i]);
        low.push_back(-static_cast<float>(i % 5));
        high.push_back(static_cast<float>(i % 7));
      }
      t.integers(
          {w.data(), h.data(), weights, scale.data(), inverse.data(), low.data(), high.data(), grids, errors.data()});
      for (size_t i = 0; i < grids; ++i) {
        double want = 0, magnitude = 0;
        for (size_t j = 0; j < weights; ++j) {
          const double code = std::clamp(std::nearbyint(double{w[j] * inverse[i]}), double{low[i]}, double{high[i]});
          const double difference = code * double{scale[i]} - double{w[j]};
          want += double{h[j]} * difference * difference;
          magnitude += double{h[j]} * std::abs(difference);
        }
        ASSERT_NEAR(errors[i], want, 1e-6 * (want + magnitude)) << grids << " " << weights;
      }
    }
}

NIBBLE_FOR_EVERY_TABLE(GridErrorKernels);

}  // namespace
}  // namespace nibble::kernels
