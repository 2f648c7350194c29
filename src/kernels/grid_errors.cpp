#include "kernels/grid_errors.h"

#include "kernels/kernels.h"

namespace nibble::kernels {

#if defined(__x86_64__)
extern const GridErrorTable avx512_grid_errors, avx2_grid_errors;
#endif

namespace {

// The definition.
void integers(const GridErrors& p) noexcept {
  for (size_t i = 0; i < p.grids; ++i) {
    float error = 0;
    for (size_t j = 0; j < p.weights; ++j) {
      float code = p.w[j] * p.inverse[i];
      code = code > p.low[i] ? code : p.low[i];  // clamped before it is rounded: the same for whole bounds
      code = code < p.high[i] ? code : p.high[i];
      code = (code + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23 leaves no fraction bits: rounds to even
      const float difference = code * p.scale[i] - p.w[j];
      error += p.h[j] * difference * difference;
    }
    p.errors[i] = error;
  }
}

constexpr GridErrorTable kScalarGridErrors = {"scalar", integers};

}  // namespace

const GridErrorTable& grid_error_table(const Table& table) {
#if defined(__x86_64__)
  for (const GridErrorTable* errors : {&avx512_grid_errors, &avx2_grid_errors})
    if (errors->kernels == table.name) return *errors;
#endif
  static_cast<void>(table);
  return kScalarGridErrors;
}

}  // namespace nibble::kernels
