#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/avx2.h"
#include "kernels/bf16.h"
#include "kernels/target.h"

namespace nibble::kernels {

static bool bf16_usable() {
  return avx2::usable() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
}

// Intel's cores begin a dot product every second cycle: 88 GFLOP/s on a Sapphire Rapids core, where float FMAs reach
// 167; on Zen 4 they reach 220 to 108.
static bool bf16_fast() { return __builtin_cpu_is("amd") != 0; }

NIBBLE_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
namespace {

constexpr size_t kLanes = 16;  // pairs in a vector
constexpr size_t kTileTokens = 8;
constexpr size_t kTileVectors = 3;
constexpr size_t kTileRows = kTileVectors * kLanes;

NIBBLE_INLINE __m512bh pairs_of(__m512i bits) { return __builtin_bit_cast(__m512bh, bits); }

NIBBLE_INLINE __m512bh broadcast_pair(const uint16_t* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return pairs_of(_mm512_set1_epi32(pair));
}

// Per pair of the depth: three loads of w and T broadcasts of x for 3 T products of 16 pairs; 24 sums, 3 vectors of
// weights and a broadcast in 32 registers.
template <size_t T>
void tile(const uint16_t* x, size_t x_stride, const uint16_t* w, size_t pairs, float* acc, size_t acc_stride,
          bool add) noexcept {
  __m512 sums[T][kTileVectors];
  NIBBLE_UNROLL for (size_t t = 0; t < T; ++t) {
    NIBBLE_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
      sums[t][v] = add ? _mm512_loadu_ps(acc + t * acc_stride + v * kLanes) : _mm512_setzero_ps();
    }
  }
  for (size_t p = 0; p < pairs; ++p) {
    __m512bh weights[kTileVectors];
    NIBBLE_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
      weights[v] = pairs_of(_mm512_load_si512(w + 2 * (p * kTileRows + v * kLanes)));
    }
    NIBBLE_UNROLL for (size_t t = 0; t < T; ++t) {
      const __m512bh input = broadcast_pair(x + t * x_stride + 2 * p);
      NIBBLE_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
        sums[t][v] = _mm512_dpbf16_ps(sums[t][v], weights[v], input);
      }
    }
  }
  NIBBLE_UNROLL for (size_t t = 0; t < T; ++t) {
    NIBBLE_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
      _mm512_storeu_ps(acc + t * acc_stride + v * kLanes, sums[t][v]);
    }
  }
}

// Calls tile<tokens>.
template <size_t T>
void tile_of(const uint16_t* x, size_t x_stride, const uint16_t* w, size_t pairs, float* acc, size_t acc_stride,
             size_t tokens, bool add) noexcept {
  if constexpr (T > 0) {
    if (tokens == T)
      tile<T>(x, x_stride, w, pairs, acc, acc_stride, add);
    else
      tile_of<T - 1>(x, x_stride, w, pairs, acc, acc_stride, tokens, add);
  }
}

// The low n bits; n <= 32.
NIBBLE_INLINE __mmask32 first_bits(size_t n) { return static_cast<__mmask32>((uint64_t{1} << n) - 1); }

// v[i] becomes lane i of each vector: four rounds of 16 shuffles.
NIBBLE_INLINE void transpose_16x16(__m512i* v) {
  __m512i pairs[16], fours[16];
  NIBBLE_UNROLL for (size_t i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);      // lanes 0 1 of every four, rows i and i + 1
    pairs[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);  // lanes 2 3
  }
  NIBBLE_UNROLL for (size_t i = 0; i < 16; i += 4) {
    fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);  // lane k of every four in fours[i + k]
    fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  // fours[4 q + k] holds lane 4 j + k of rows 4 q .. 4 q + 3 in its quarter j.
  NIBBLE_UNROLL for (size_t k = 0; k < 4; ++k) {
    const __m512i low01 = _mm512_shuffle_i32x4(fours[k], fours[4 + k], 0x44);        // quarters 0 1 of rows 0-3, 4-7
    const __m512i low23 = _mm512_shuffle_i32x4(fours[k], fours[4 + k], 0xee);        // quarters 2 3
    const __m512i high01 = _mm512_shuffle_i32x4(fours[8 + k], fours[12 + k], 0x44);  // rows 8-11, 12-15
    const __m512i high23 = _mm512_shuffle_i32x4(fours[8 + k], fours[12 + k], 0xee);
    v[k] = _mm512_shuffle_i32x4(low01, high01, 0x88);
    v[4 + k] = _mm512_shuffle_i32x4(low01, high01, 0xdd);
    v[8 + k] = _mm512_shuffle_i32x4(low23, high23, 0x88);
    v[12 + k] = _mm512_shuffle_i32x4(low23, high23, 0xdd);
  }
}

void pack_pairs(const uint16_t* in, size_t in_stride, size_t rows, size_t cols, uint16_t* out,
                size_t out_stride) noexcept {
  for (size_t r = 0; r < rows; r += kLanes) {
    const size_t count = rows - r < kLanes ? rows - r : kLanes;
    const auto lanes = static_cast<__mmask16>(first_bits(count));
    for (size_t c = 0; c < cols; c += 2 * kLanes) {
      const size_t left = cols - c < 2 * kLanes ? cols - c : 2 * kLanes;
      const __mmask32 columns = first_bits(left);
      __m512i v[kLanes];
      NIBBLE_UNROLL for (size_t i = 0; i < kLanes; ++i) {
        v[i] = i < count ? _mm512_maskz_loadu_epi16(columns, in + (r + i) * in_stride + c) : _mm512_setzero_si512();
      }
      transpose_16x16(v);
      uint16_t* const to = out + c * out_stride + 2 * r;
      const size_t pairs = (left + 1) / 2;
      NIBBLE_UNROLL for (size_t p = 0; p < kLanes; ++p) {
        if (p < pairs) _mm512_mask_storeu_epi32(to + 2 * p * out_stride, lanes, v[p]);
      }
    }
  }
}

}  // namespace
NIBBLE_TARGET_END

extern const Bf16Table bf16_avx512;
const Bf16Table bf16_avx512 = {"avx512bf16", "avx512",  bf16_usable,          bf16_fast,
                               kTileTokens,  kTileRows, tile_of<kTileTokens>, pack_pairs};

}  // namespace nibble::kernels
#endif
