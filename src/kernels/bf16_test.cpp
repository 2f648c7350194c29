#include "kernels/bf16.h"

#include <algorithm>
#include <cmath>

#include "core/half.h"
#include "kernels/gemm_cases.h"

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

struct Product {
  using Loader = Bf16Loader;
  using Element = uint16_t;
  const Units& run;

  static uint16_t stored(float value) { return f32_to_bf16(value); }
  static double weight(uint16_t value) { return static_cast<double>(bf16_to_f32(value)); }
  static double input(float value) { return weight(stored(value)); }
  void multiply(MatrixView<const float> x, const Bf16Loader& w, const float* bias, MatrixView<float> y) const {
    gemm_bf16(*run.table, run.units, x, w, bias, y);
  }
};

TEST_P(GemmBf16, EverySmallExtent) { check_every_small_extent(Product{GetParam()}); }

TEST_P(GemmBf16, SampledShapes) { check_sampled_shapes(Product{GetParam()}); }

TEST_P(GemmBf16, DeeperThanOneBlockAndWiderThanOneRange) {
  const Product product{GetParam()};
  check_product(product, 31, 200, 767, 0, true);
  check_product(product, 31, 65, 768, 1, false);
  check_product(product, 17, 129, 769, 0, false);
  check_product(product, 5, 67, 1539, 3, true);
}

TEST_P(GemmBf16, TheThreadCountChangesNothing) { check_thread_counts(Product{GetParam()}); }

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
