#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/grid_errors.h"
#include "kernels/target.h"

namespace nibble::kernels {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c")
namespace {

using Vec = __m256;
constexpr size_t kLanes = 8;
constexpr size_t kVectors = 2;

NIBBLE_INLINE __m256i first_lanes(size_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

NIBBLE_INLINE Vec set(float value) { return _mm256_set1_ps(value); }
NIBBLE_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
NIBBLE_INLINE Vec load_part(const float* p, size_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
NIBBLE_INLINE void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
NIBBLE_INLINE void store_part(float* p, Vec v, size_t n) { _mm256_maskstore_ps(p, first_lanes(n), v); }
NIBBLE_INLINE Vec multiply(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
NIBBLE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
NIBBLE_INLINE Vec fms(Vec a, Vec b, Vec c) { return _mm256_fmsub_ps(a, b, c); }
NIBBLE_INLINE Vec least(Vec a, Vec b) { return _mm256_min_ps(a, b); }
NIBBLE_INLINE Vec largest(Vec a, Vec b) { return _mm256_max_ps(a, b); }
NIBBLE_INLINE Vec nearest(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

#include "kernels/grid_errors.inc"

}  // namespace
NIBBLE_TARGET_END

extern const GridErrorTable avx2_grid_errors;
const GridErrorTable avx2_grid_errors = {"avx2", integers};

}  // namespace nibble::kernels
#endif
