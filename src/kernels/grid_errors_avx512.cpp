#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/grid_errors.h"
#include "kernels/target.h"

namespace nibble::kernels {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")
namespace {

using Vec = __m512;
constexpr size_t kLanes = 16;
constexpr size_t kVectors = 4;

NIBBLE_INLINE __mmask16 first_lanes(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }

NIBBLE_INLINE Vec set(float value) { return _mm512_set1_ps(value); }
NIBBLE_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
NIBBLE_INLINE Vec load_part(const float* p, size_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
NIBBLE_INLINE void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
NIBBLE_INLINE void store_part(float* p, Vec v, size_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
NIBBLE_INLINE Vec multiply(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
NIBBLE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
NIBBLE_INLINE Vec fms(Vec a, Vec b, Vec c) { return _mm512_fmsub_ps(a, b, c); }
NIBBLE_INLINE Vec least(Vec a, Vec b) { return _mm512_min_ps(a, b); }
NIBBLE_INLINE Vec largest(Vec a, Vec b) { return _mm512_max_ps(a, b); }
NIBBLE_INLINE Vec nearest(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

#include "kernels/grid_errors.inc"

}  // namespace
NIBBLE_TARGET_END

extern const GridErrorTable avx512_grid_errors;
const GridErrorTable avx512_grid_errors = {"avx512", integers};

}  // namespace nibble::kernels
#endif
