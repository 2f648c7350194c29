#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cholesky.h"
#include "kernels/target.h"

namespace nibble::kernels {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c")
namespace {

using Vec = __m256d;
constexpr size_t kLanes = 4;
constexpr size_t kTileRows = 4;
constexpr size_t kVectors = 3;

NIBBLE_INLINE Vec set(double value) { return _mm256_set1_pd(value); }
NIBBLE_INLINE Vec load(const double* p) { return _mm256_loadu_pd(p); }
NIBBLE_INLINE void store(double* p, Vec v) { _mm256_storeu_pd(p, v); }
NIBBLE_INLINE Vec multiply(Vec a, Vec b) { return _mm256_mul_pd(a, b); }
NIBBLE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_pd(a, b, c); }
NIBBLE_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_pd(a, b, c); }

#include "kernels/cholesky.inc"

}  // namespace
NIBBLE_TARGET_END

extern const CholeskyTable avx2_cholesky;
const CholeskyTable avx2_cholesky = {"avx2", kTileRows, kPanelCols, solve, products};

}  // namespace nibble::kernels
#endif
