#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/lanes.h"
#include "kernels/target.h"

namespace nibble::kernels {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")
namespace {

using Vec = __m512;
constexpr size_t kLanes = 16;
constexpr size_t kProductRows = 8;
constexpr size_t kGramCols = 4;

NIBBLE_INLINE Vec set(float value) { return _mm512_set1_ps(value); }
NIBBLE_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
NIBBLE_INLINE void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
NIBBLE_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
NIBBLE_INLINE Vec subtract(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
NIBBLE_INLINE Vec multiply(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
NIBBLE_INLINE Vec divide(Vec a, Vec b) { return _mm512_div_ps(a, b); }
NIBBLE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// Both give the second operand where the first is NaN.
NIBBLE_INLINE Vec least(Vec a, Vec b) { return _mm512_min_ps(a, b); }
NIBBLE_INLINE Vec largest(Vec a, Vec b) { return _mm512_max_ps(a, b); }
NIBBLE_INLINE void store_codes(uint8_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}

#include "kernels/lanes.inc"

}  // namespace
NIBBLE_TARGET_END

extern const LaneTable avx512_lanes;
const LaneTable avx512_lanes = {"avx512", products, round, gram, gather, spread};

}  // namespace nibble::kernels
#endif
