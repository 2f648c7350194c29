#include "kernels/cholesky.h"

#include "kernels/kernels.h"

namespace nibble::kernels {

#if defined(__x86_64__)
extern const CholeskyTable avx512_cholesky, avx2_cholesky;
#endif

namespace {

// The definition. Tiles of four rows let the compiler keep the sums of SSE2 vectors in registers.
constexpr size_t kTileRows = 4, kPanelCols = 4;

void solve(const double* upper, size_t depth, double* panel) noexcept {
  for (size_t i = depth; i-- > 0;) {
    double* const x = panel + i * kPanelCols;
    for (size_t m = i + 1; m < depth; ++m)
      for (size_t c = 0; c < kPanelCols; ++c) x[c] -= upper[i * depth + m] * panel[m * kPanelCols + c];
    for (size_t c = 0; c < kPanelCols; ++c) x[c] /= upper[i * depth + i];
  }
}

void products(const double* a, const double* b, size_t depth, double* out) noexcept {
  double sums[kTileRows][kPanelCols] = {};
  for (size_t i = 0; i < depth; ++i)
    for (size_t r = 0; r < kTileRows; ++r)
      for (size_t c = 0; c < kPanelCols; ++c) sums[r][c] += a[i * kPanelCols + r] * b[i * kPanelCols + c];
  for (size_t r = 0; r < kTileRows; ++r)
    for (size_t c = 0; c < kPanelCols; ++c) out[r * kPanelCols + c] = sums[r][c];
}

constexpr CholeskyTable kScalarCholesky = {"scalar", kTileRows, kPanelCols, solve, products};

}  // namespace

const CholeskyTable& cholesky_table(const Table& table) {
#if defined(__x86_64__)
  for (const CholeskyTable* cholesky : {&avx512_cholesky, &avx2_cholesky})
    if (cholesky->kernels == table.name) return *cholesky;
#endif
  static_cast<void>(table);
  return kScalarCholesky;
}

}  // namespace nibble::kernels
