#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/grid_rows.h"
#include "kernels/target.h"

namespace nibble::kernels {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c")
namespace {

using Vec = __m256;
using Codes = __m256i;
using Bytes = __m128i;  // the low half
constexpr size_t kLanes = 8;
constexpr size_t kGridSums = 4;
constexpr size_t kGridTokens = 4;

struct Levels {
  __m256 low, high;
};

NIBBLE_INLINE __m256i lanes() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
NIBBLE_INLINE __m256i first_lanes(size_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lanes());
}

NIBBLE_INLINE Vec set(float value) { return _mm256_set1_ps(value); }
NIBBLE_INLINE Vec multiply(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
NIBBLE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
NIBBLE_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
NIBBLE_INLINE Vec load_part(const float* p, size_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
NIBBLE_INLINE void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
NIBBLE_INLINE void store_part(float* p, Vec v, size_t n) { _mm256_maskstore_ps(p, first_lanes(n), v); }
NIBBLE_INLINE float total(Vec v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

NIBBLE_INLINE Codes load_bytes(const uint8_t* p, size_t n) {
  if (n >= 32) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  alignas(32) uint8_t buffer[32] = {};
  __builtin_memcpy(buffer, p, n);
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(buffer));
}
template <int N>
NIBBLE_INLINE Codes shift_right(Codes v) {
  if constexpr (N == 0) return v;
  return _mm256_srli_epi32(v, N);
}
NIBBLE_INLINE Levels load_levels(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
// A permutation looks at three bits; the fourth, moved to the sign, chooses between two of them.
NIBBLE_INLINE Vec look_up(const Levels& levels, Codes v) {
  const __m256 low = _mm256_permutevar8x32_ps(levels.low, v), high = _mm256_permutevar8x32_ps(levels.high, v);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(v, 28)));
}
NIBBLE_INLINE Vec spread(const float* p, size_t n, int shift) {
  if (shift >= 3) return set(*p);
  const size_t most = kLanes >> shift;
  const __m256 values = _mm256_maskload_ps(p, first_lanes(n < most ? n : most));
  return _mm256_permutevar8x32_ps(values, _mm256_srl_epi32(lanes(), _mm_cvtsi32_si128(shift)));
}

NIBBLE_INLINE Bytes load_codes(const uint8_t* p, size_t n) {
  if (n >= kLanes) return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  alignas(16) uint8_t buffer[16] = {};
  __builtin_memcpy(buffer, p, n);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(buffer));
}
NIBBLE_INLINE Vec level_value(const Levels& levels, Bytes bytes) {
  return look_up(levels, _mm256_cvtepu8_epi32(bytes));
}

// The bits of E4M3 in their places in an f16, whose exponent has a bias of 15 instead of 7. Widening has set the bit
// below the sign to the sign as well.
NIBBLE_INLINE Vec fp8_value(Bytes bytes) {
  const __m128i halves = _mm_slli_epi16(_mm_cvtepi8_epi16(bytes), 7);
  return _mm256_cvtph_ps(_mm_and_si128(halves, _mm_set1_epi16(static_cast<short>(0xbfff))));
}
NIBBLE_INLINE Bytes is_nan(Bytes bytes) {
  return _mm_cmpeq_epi8(_mm_and_si128(bytes, _mm_set1_epi8(127)), _mm_set1_epi8(127));
}
NIBBLE_INLINE Vec fp8_or_nan(Vec v, Bytes bytes) {
  return _mm256_or_ps(v, _mm256_castsi256_ps(_mm256_cvtepi8_epi32(is_nan(bytes))));  // all ones: a NaN
}
NIBBLE_INLINE Bytes widest(Bytes a, Bytes b) { return _mm_max_epu8(a, _mm_and_si128(b, _mm_set1_epi8(127))); }
NIBBLE_INLINE bool holds_nan(Bytes seen) { return _mm_movemask_epi8(is_nan(seen)) != 0; }

#include "kernels/grid_rows.inc"

}  // namespace
NIBBLE_TARGET_END

extern const GridTable avx2_grids;
const GridTable avx2_grids = {"avx2", arrange, level_products, fp8_products, scale_levels, scale_fp8};

}  // namespace nibble::kernels
#endif
