#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/lanes.h"
#include "kernels/target.h"

namespace nibble::kernels {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c")
namespace {

using Vec = __m256;
constexpr size_t kLanes = 8;
constexpr size_t kProductRows = 4;
constexpr size_t kGramCols = 2;

NIBBLE_INLINE Vec set(float value) { return _mm256_set1_ps(value); }
NIBBLE_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
NIBBLE_INLINE void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
NIBBLE_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
NIBBLE_INLINE Vec subtract(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
NIBBLE_INLINE Vec multiply(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
NIBBLE_INLINE Vec divide(Vec a, Vec b) { return _mm256_div_ps(a, b); }
NIBBLE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
// Both give the second operand where the first is NaN.
NIBBLE_INLINE Vec least(Vec a, Vec b) { return _mm256_min_ps(a, b); }
NIBBLE_INLINE Vec largest(Vec a, Vec b) { return _mm256_max_ps(a, b); }
NIBBLE_INLINE void store_codes(uint8_t* p, Vec v) {
  const __m256i codes = _mm256_cvtps_epi32(v);
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}

#include "kernels/lanes.inc"

}  // namespace
NIBBLE_TARGET_END

extern const LaneTable avx2_lanes;
const LaneTable avx2_lanes = {"avx2", products, round, gram, gather, spread};

}  // namespace nibble::kernels
#endif
