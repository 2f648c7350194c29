#include "kernels/row_products.h"

#include "core/half.h"
#include "kernels/kernels.h"

namespace nibble::kernels {

#if defined(__x86_64__)
extern const RowTable avx512_rows, avx2_rows;
#endif

namespace {

float widen_f16(uint16_t bits) noexcept { return nibble::f16_to_f32(bits); }
float widen_bf16(uint16_t bits) noexcept { return nibble::bf16_to_f32(bits); }
float keep(float value) noexcept { return value; }

// The definition.
template <class Element, float (*Widen)(Element) noexcept>
void products(const DenseRows& p) noexcept {
  const auto* const w = static_cast<const Element*>(p.weights);
  for (size_t r = 0; r < p.rows; ++r) {
    for (size_t t = 0; t < p.tokens; ++t) {
      float sums[8] = {};  // as dot_f32's
      for (size_t c = 0; c < p.cols; ++c) sums[c % 8] += Widen(w[r * p.cols + c]) * p.x[t * p.x_stride + c];
      p.y[t * p.y_stride + r] =
          ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    }
  }
}

constexpr RowTable kScalarRows = {"scalar", products<float, keep>, products<uint16_t, widen_f16>,
                                  products<uint16_t, widen_bf16>};

}  // namespace

const RowTable& row_table(const Table& table) {
#if defined(__x86_64__)
  for (const RowTable* rows : {&avx512_rows, &avx2_rows})
    if (rows->kernels == table.name) return *rows;
#endif
  static_cast<void>(table);
  return kScalarRows;
}

}  // namespace nibble::kernels
