#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cholesky.h"
#include "kernels/target.h"

namespace nibble::kernels {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")
namespace {

using Vec = __m512d;
constexpr size_t kLanes = 8;
constexpr size_t kTileRows = 8;
constexpr size_t kVectors = 3;

NIBBLE_INLINE Vec set(double value) { return _mm512_set1_pd(value); }
NIBBLE_INLINE Vec load(const double* p) { return _mm512_loadu_pd(p); }
NIBBLE_INLINE void store(double* p, Vec v) { _mm512_storeu_pd(p, v); }
NIBBLE_INLINE Vec multiply(Vec a, Vec b) { return _mm512_mul_pd(a, b); }
NIBBLE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_pd(a, b, c); }
NIBBLE_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_pd(a, b, c); }

#include "kernels/cholesky.inc"

}  // namespace
NIBBLE_TARGET_END

extern const CholeskyTable avx512_cholesky;
const CholeskyTable avx512_cholesky = {"avx512", kTileRows, kPanelCols, solve, products};

}  // namespace nibble::kernels
#endif
