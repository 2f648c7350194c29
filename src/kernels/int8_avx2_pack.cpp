#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/int8_avx2.h"
#include "kernels/target.h"

// Rows of codes to packed blocks. Half a block, 8 rows of 32 columns, is 8 vectors: 24 shuffles turn rows into steps,
// then each plane gathers its bits from them with a shift and a merge for each step.
namespace nibble::kernels::avx2 {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c")
namespace {

constexpr size_t kHalf = 32;

// v: 8 rows of 8 units of 4 bytes; after it, the units of all rows: their transposition.
NIBBLE_INLINE void rows_to_steps(__m256i (&v)[8]) {
  __m256i pairs[8], fours[8];
  NIBBLE_UNROLL
  for (size_t i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
  }
  NIBBLE_UNROLL
  for (size_t i = 0; i < 8; i += 4) {
    fours[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
    fours[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
    fours[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    fours[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  NIBBLE_UNROLL
  for (size_t i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20);
    v[i + 4] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
  }
}

// Field K and the later ones of a vector of a plane: `Width` bits from bit `From` of the codes of step K.
template <int Width, int From, int K>
NIBBLE_INLINE __m256i gather(const __m256i* steps) {
  constexpr int kLeft = K * Width - From;
  __m256i v = steps[K];
  if constexpr (kLeft > 0) v = _mm256_slli_epi16(v, kLeft);
  if constexpr (kLeft < 0) v = _mm256_srli_epi16(v, -kLeft);
  v = _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(((1 << Width) - 1) << K * Width)));
  if constexpr ((K + 1) * Width < 8) v = _mm256_or_si256(v, gather<Width, From, K + 1>(steps));
  return v;
}

// The plane of `Width` bits; returns the next one's place.
template <int Width, int From>
NIBBLE_INLINE uint8_t* store_plane(const __m256i* steps, uint8_t* out) {
  for (size_t s = 0; s < kInt8Steps; s += 8 / Width, out += kInt8Vector)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), gather<Width, From, 0>(steps + s));
  return out;
}

template <int Bits>
void pack_of(const uint8_t* codes, size_t stride, size_t blocks, uint8_t* packed) noexcept {
  for (size_t b = 0; b < blocks; ++b)
    for (size_t half = 0; half < 2; ++half) {
      const uint8_t* const from = codes + half * 8 * stride + b * kInt8Block;
      __m256i steps[8];
      NIBBLE_UNROLL
      for (size_t r = 0; r < 8; ++r) steps[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + r * stride));
      rows_to_steps(steps);
      uint8_t* out = packed + b * int8_block_bytes(Bits) + half * kHalf;
      if constexpr (Bits == 8) {
        NIBBLE_UNROLL
        for (size_t s = 0; s < kInt8Steps; ++s)
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + s * kInt8Vector), steps[s]);
      } else {
        if constexpr ((Bits & 4) != 0) out = store_plane<4, 0>(steps, out);
        if constexpr ((Bits & 2) != 0) out = store_plane<2, Bits & 4>(steps, out);
        if constexpr ((Bits & 1) != 0) store_plane<1, Bits & 6>(steps, out);
      }
    }
}

}  // namespace

void pack_int8(const uint8_t* codes, size_t stride, int bits, size_t blocks, uint8_t* packed) noexcept {
  using Pack = void (*)(const uint8_t*, size_t, size_t, uint8_t*) noexcept;
  static constexpr Pack kOfBits[] = {pack_of<1>, pack_of<1>, pack_of<2>, pack_of<3>, pack_of<4>,
                                     pack_of<5>, pack_of<6>, pack_of<7>, pack_of<8>};  // [0]: kInt8SignOnly
  kOfBits[bits](codes, stride, blocks, packed);
}

NIBBLE_TARGET_END

}  // namespace nibble::kernels::avx2
#endif
