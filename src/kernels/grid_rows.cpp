#include "kernels/grid_rows.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "kernels/kernels.h"

namespace nibble::kernels {

#if defined(__x86_64__)
extern const GridTable avx512_grids, avx2_grids;
#endif

namespace {

float fp8(uint8_t code) noexcept {
  const unsigned exponent = (code >> 3) & 15u, mantissa = code & 7u;
  float value = static_cast<float>(mantissa) * 0x1p-9f;  // subnormal
  if (exponent > 0) value = std::bit_cast<float>((exponent + 120) << 23 | mantissa << 20);
  if ((code & 127u) == 127) value = std::numeric_limits<float>::quiet_NaN();
  return (code & 128u) != 0 ? -value : value;
}

void arrange(const float* x, size_t cols, float* out) noexcept {
  std::copy_n(x, cols, out);
  std::fill_n(out + cols, arranged_size(cols) - cols, 0.0f);
}

// y[t][r] from the value of column c of a row of codes.
template <class Value>
void products(const GridRows& p, const Value& value) noexcept {
  for (size_t r = 0; r < p.rows; ++r) {
    for (size_t t = 0; t < p.tokens; ++t) {
      float sums[8] = {};  // as dot_f32's
      for (size_t c = 0; c < p.cols; ++c)
        sums[c % 8] +=
            p.scales[r * p.scale_stride + c / p.group] * value(p.codes + r * p.stride, c) * p.x[t * p.x_stride + c];
      p.y[t * p.y_stride + r] =
          ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    }
  }
}

void level_products(const GridRows& p, const float* levels) noexcept {
  products(p, [&](const uint8_t* codes, size_t c) { return levels[(codes[c / 2] >> (c % 2 * 4)) & 15]; });
}

void fp8_products(const GridRows& p) noexcept {
  products(p, [](const uint8_t* codes, size_t c) { return fp8(codes[c]); });
}

void scale_levels(const uint8_t* codes, const float* levels, float scale, float* out, size_t n) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = scale * levels[codes[i]];
}

void scale_fp8(const uint8_t* codes, float scale, float* out, size_t n) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = scale * fp8(codes[i]);
}

constexpr GridTable kScalarGrids = {"scalar", arrange, level_products, fp8_products, scale_levels, scale_fp8};

}  // namespace

const GridTable& grid_table(const Table& table) {
#if defined(__x86_64__)
  for (const GridTable* grids : {&avx512_grids, &avx2_grids})
    if (grids->kernels == table.name) return *grids;
#endif
  static_cast<void>(table);
  return kScalarGrids;
}

const GridTable& active_grids() {
  static const GridTable& chosen = grid_table(active());
  return chosen;
}

}  // namespace nibble::kernels
