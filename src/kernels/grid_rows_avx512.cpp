#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/grid_rows.h"
#include "kernels/target.h"

namespace nibble::kernels {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")
namespace {

using Vec = __m512;
using Codes = __m512i;
using Bytes = __m128i;
using Levels = __m512;
constexpr size_t kLanes = 16;
constexpr size_t kGridSums = 8;    // beside as many of a group, and the codes, in 32 registers
constexpr size_t kGridTokens = 4;  // eight bring more of x through the first-level cache than it holds

__mmask16 first_lanes(size_t n) { return static_cast<__mmask16>(n < kLanes ? (1u << n) - 1 : 0xffffu); }

NIBBLE_INLINE Vec set(float value) { return _mm512_set1_ps(value); }
NIBBLE_INLINE Vec multiply(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
NIBBLE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
NIBBLE_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
NIBBLE_INLINE Vec load_part(const float* p, size_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
NIBBLE_INLINE void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
NIBBLE_INLINE void store_part(float* p, Vec v, size_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
NIBBLE_INLINE float total(Vec v) { return _mm512_reduce_add_ps(v); }

NIBBLE_INLINE Codes load_bytes(const uint8_t* p, size_t n) {
  if (n >= 64) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi8((uint64_t{1} << n) - 1, p);
}
template <int N>
NIBBLE_INLINE Codes shift_right(Codes v) {
  if constexpr (N == 0) return v;
  return _mm512_srli_epi32(v, N);
}
NIBBLE_INLINE Levels load_levels(const float* p) { return _mm512_loadu_ps(p); }
NIBBLE_INLINE Vec look_up(Levels levels, Codes v) { return _mm512_permutexvar_ps(v, levels); }
NIBBLE_INLINE Vec spread(const float* p, size_t n, int shift) {
  if (shift >= 4) return set(*p);
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const size_t most = kLanes >> shift;
  const __m512 values = _mm512_maskz_loadu_ps(first_lanes(n < most ? n : most), p);
  return _mm512_permutexvar_ps(_mm512_srl_epi32(lane, _mm_cvtsi32_si128(shift)), values);
}

NIBBLE_INLINE Bytes load_codes(const uint8_t* p, size_t n) {
  if (n >= kLanes) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm_maskz_loadu_epi8(first_lanes(n), p);
}
NIBBLE_INLINE Vec level_value(Levels levels, Bytes bytes) { return look_up(levels, _mm512_cvtepu8_epi32(bytes)); }

// The bits of E4M3 in their places in an f16, whose exponent has a bias of 15 instead of 7. Widening has set the bit
// below the sign to the sign as well.
NIBBLE_INLINE Vec fp8_value(Bytes bytes) {
  const __m256i halves = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
  return _mm512_cvtph_ps(_mm256_and_si256(halves, _mm256_set1_epi16(static_cast<short>(0xbfff))));
}
NIBBLE_INLINE Vec fp8_or_nan(Vec v, Bytes bytes) {
  const __m128i magnitude = _mm_and_si128(bytes, _mm_set1_epi8(127));
  return _mm512_mask_mov_ps(v, _mm_cmpeq_epi8_mask(magnitude, _mm_set1_epi8(127)), set(__builtin_nanf("")));
}
NIBBLE_INLINE Bytes widest(Bytes a, Bytes b) { return _mm_max_epu8(a, _mm_and_si128(b, _mm_set1_epi8(127))); }
NIBBLE_INLINE bool holds_nan(Bytes seen) { return _mm_cmpeq_epi8_mask(seen, _mm_set1_epi8(127)) != 0; }

#include "kernels/grid_rows.inc"

}  // namespace
NIBBLE_TARGET_END

extern const GridTable avx512_grids;
const GridTable avx512_grids = {"avx512", arrange, level_products, fp8_products, scale_levels, scale_fp8};

}  // namespace nibble::kernels
#endif
