#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/avx2.h"
#include "kernels/int8_avx2.h"
#include "kernels/target.h"

namespace nibble::kernels {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c")
#include "kernels/int8_avx2.inc"
namespace {

// Steps whose pairs of products, each at most 2 * 127 * (2^Bits - 1), add up in 16 bits. Codes of 8 bits would not
// even for one step: they are taken as signed numbers around 128, and the sign goes to the activation.
template <int Bits>
constexpr int kRun = Bits <= 4   ? 8
                     : Bits == 5 ? 4
                     : Bits == 6 ? 2
                                 : 1;

// Bytes from the block in use to the one that is asked for, into the L2 cache, as in the VNNI table.
template <int Bits>
constexpr size_t kAhead = Bits == 8 ? 4096 : 8192;

// Sums of one integer type, [tokens, halves]: a half is 8 rows of the tile.
template <size_t Tokens, size_t Halves>
using Sums = __m256i[Tokens][Halves];

// Adds steps [S, End) of one run to 16-bit sums; block points at the first half.
template <int Bits, size_t Tokens, size_t Halves, int S, int End>
NIBBLE_INLINE void add_steps(const uint8_t* block, const int8_t* values, size_t stride, Sums<Tokens, Halves>& pairs) {
  if constexpr (S < End) {
    __m256i codes[Halves];
    NIBBLE_UNROLL
    for (size_t h = 0; h < Halves; ++h) codes[h] = step<Bits, S>(block + h * kHalf);
    NIBBLE_UNROLL
    for (size_t t = 0; t < Tokens; ++t) {
      int four;
      __builtin_memcpy(&four, values + t * stride + 4 * S, 4);
      const __m256i x = _mm256_set1_epi32(four);
      NIBBLE_UNROLL
      for (size_t h = 0; h < Halves; ++h) {
        if constexpr (Bits == 8) {
          const __m256i centred = _mm256_xor_si256(codes[h], _mm256_set1_epi8(-128));
          pairs[t][h] = _mm256_maddubs_epi16(_mm256_abs_epi8(centred), _mm256_sign_epi8(x, centred));
        } else {
          pairs[t][h] = add16(pairs[t][h], _mm256_maddubs_epi16(codes[h], x));
        }
      }
    }
    add_steps<Bits, Tokens, Halves, S + 1, End>(block, values, stride, pairs);
  }
}

// Adds steps [S, End) to the integer sums, run by run.
template <int Bits, size_t Tokens, size_t Halves, int S, int End>
NIBBLE_INLINE void add_runs(const uint8_t* block, const int8_t* values, size_t stride, Sums<Tokens, Halves>& dots) {
  if constexpr (S < End) {
    constexpr int kEnd = S + kRun<Bits> < End ? S + kRun<Bits> : End;
    Sums<Tokens, Halves> pairs;
    NIBBLE_UNROLL
    for (size_t i = 0; i < Tokens * Halves; ++i) pairs[i / Halves][i % Halves] = _mm256_setzero_si256();
    add_steps<Bits, Tokens, Halves, S, kEnd>(block, values, stride, pairs);
    NIBBLE_UNROLL
    for (size_t i = 0; i < Tokens * Halves; ++i) {
      __m256i& sum = dots[i / Halves][i % Halves];
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs[i / Halves][i % Halves], _mm256_set1_epi16(1)));
    }
    add_runs<Bits, Tokens, Halves, kEnd, End>(block, values, stride, dots);
  }
}

// Eight zero points from `at` on, less what codes of 8 bits are taken around.
template <int Bits>
NIBBLE_INLINE __m256i load_zeros(const Int8Tile& w, size_t at) {
  const __m256i centre = _mm256_set1_epi32(Bits == 8 ? 128 : 0);
  if (w.zeros == nullptr) return _mm256_sub_epi32(_mm256_set1_epi32(w.zero), centre);
  return _mm256_sub_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w.zeros + at))),
                          centre);
}

// 8 * Halves rows of the tile, from `row` on.
template <int Bits, size_t Tokens, size_t Halves, int Steps>
void rows_of_tile(const Int8Tile& w, const Int8Tokens& x, size_t first, size_t row, float* y) noexcept {
  constexpr size_t kSpan = 4 * Steps, kSums = Tokens * Halves;
  const size_t spans_of_group = w.group / kSpan, stride = x.blocks * kInt8Block;
  const int8_t* const values = x.values + first * stride;
  const float* const token_scales = x.scales + first * x.blocks;
  const uint32_t* const negated = x.negated + first * x.spans;
  __m256 totals[kSums];
  NIBBLE_UNROLL
  for (size_t i = 0; i < kSums; ++i) totals[i] = _mm256_setzero_ps();
  for (size_t s = 0, g = 0; s < x.spans; ++g) {
    const size_t end = x.spans - s < spans_of_group ? x.spans : s + spans_of_group;
    const size_t at = g * kInt8Rows + row;
    __m256i zeros[Halves];
    NIBBLE_UNROLL
    for (size_t h = 0; h < Halves; ++h) zeros[h] = load_zeros<Bits>(w, at + 8 * h);
    __m256 partial[kSums];
    NIBBLE_UNROLL
    for (size_t i = 0; i < kSums; ++i) partial[i] = _mm256_setzero_ps();
    for (; s < end; ++s) {
      const size_t b = s * kSpan / kInt8Block;
      const uint8_t* const block = w.codes + b * int8_block_bytes(Bits) + row / 8 * kHalf;
      const int8_t* const columns = values + b * kInt8Block;
      Sums<Tokens, Halves> dots;
      NIBBLE_UNROLL
      for (size_t i = 0; i < kSums; ++i)  // the upper 16 bits of negated are 0
        dots[i / Halves][i % Halves] = _mm256_madd_epi16(
            zeros[i % Halves], _mm256_set1_epi32(static_cast<int>(negated[i / Halves * x.spans + s])));
      if (Steps == 8 || s % 2 == 0) {
        if (row == 0) {
          for (size_t i = 0; i < int8_block_bytes(Bits); i += 64)
            _mm_prefetch(reinterpret_cast<const char*>(block + kAhead<Bits> + i), _MM_HINT_T1);
        }
        add_runs<Bits, Tokens, Halves, 0, Steps>(block, columns, stride, dots);
      } else {
        add_runs<Bits, Tokens, Halves, 8 - Steps, 8>(block, columns, stride, dots);
      }
      NIBBLE_UNROLL
      for (size_t i = 0; i < kSums; ++i)
        partial[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[i / Halves][i % Halves]),
                                     _mm256_set1_ps(token_scales[i / Halves * x.blocks + b]), partial[i]);
    }
    NIBBLE_UNROLL
    for (size_t i = 0; i < kSums; ++i)
      totals[i] = _mm256_fmadd_ps(partial[i], load_floats(w.scales, w.scale_dtype, at + i % Halves * 8), totals[i]);
    if (w.mins != nullptr) {
      NIBBLE_UNROLL
      for (size_t i = 0; i < kSums; ++i)
        totals[i] = _mm256_fmadd_ps(load_floats(w.mins, w.scale_dtype, at + i % Halves * 8),
                                    _mm256_set1_ps(x.sums[(first + i / Halves) * x.groups + g]), totals[i]);
    }
  }
  NIBBLE_UNROLL
  for (size_t i = 0; i < kSums; ++i) _mm256_storeu_ps(y + i / Halves * kInt8Rows + row + i % Halves * 8, totals[i]);
}

// A tile in one pass where the sums of its 16 rows have registers, so that every activation is broadcast once and its
// lines are read in their order; else in two. For 512 int4 weights and one token: 16 loads, 24 operations to unpack,
// 30 to multiply and add in 16 bits, and 12 to add up and scale.
template <int Bits, size_t Tokens>
void tile(const Int8Tile& w, const Int8Tokens& x, size_t first, float* y) noexcept {
  constexpr size_t kHalves = Tokens <= 2 ? 2 : 1;
  for (size_t row = 0; row < kInt8Rows; row += 8 * kHalves)
    if (int8_span(w.group) == kInt8Block)
      rows_of_tile<Bits, Tokens, kHalves, 8>(w, x, first, row, y);
    else
      rows_of_tile<Bits, Tokens, kHalves, 4>(w, x, first, row, y);
}

// The tokens by fours, twos and ones: the tile stays in the L1 cache meanwhile.
template <int Bits, size_t Most = 4>
void tokens_of(const Int8Tile& w, const Int8Tokens& x, size_t first, size_t count, float* y) noexcept {
  for (; count >= Most; first += Most, count -= Most, y += Most * kInt8Rows) tile<Bits, Most>(w, x, first, y);
  if constexpr (Most > 1) tokens_of<Bits, Most / 2>(w, x, first, count, y);
}

void products(const Int8Tile& w, const Int8Tokens& x, size_t first, size_t count, float* y) noexcept {
  using Products = void (*)(const Int8Tile&, const Int8Tokens&, size_t, size_t, float*) noexcept;
  static constexpr Products kOfBits[] = {tokens_of<0>, tokens_of<1>, tokens_of<2>, tokens_of<3>, tokens_of<4>,
                                         tokens_of<5>, tokens_of<6>, tokens_of<7>, tokens_of<8>};
  kOfBits[w.bits](w, x, first, count, y);
}

template <int Bits, int S>
NIBBLE_INLINE void store_steps(const uint8_t* block, uint8_t* out) {
  if constexpr (S < static_cast<int>(kInt8Steps)) {
    for (size_t at = 0; at < kInt8Vector; at += kHalf)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + S * kInt8Vector + at), step<Bits, S>(block + at));
    store_steps<Bits, S + 1>(block, out);
  }
}

template <int Bits>
void unpack_of(const uint8_t* packed, size_t blocks, uint8_t* steps) noexcept {
  for (size_t b = 0; b < blocks; ++b)
    store_steps<Bits, 0>(packed + b * int8_block_bytes(Bits), steps + b * kInt8Steps * kInt8Vector);
}

void unpack(const uint8_t* packed, int bits, size_t blocks, uint8_t* steps) noexcept {
  using Unpack = void (*)(const uint8_t*, size_t, uint8_t*) noexcept;
  static constexpr Unpack kOfBits[] = {unpack_of<0>, unpack_of<1>, unpack_of<2>, unpack_of<3>, unpack_of<4>,
                                       unpack_of<5>, unpack_of<6>, unpack_of<7>, unpack_of<8>};
  kOfBits[bits](packed, blocks, steps);
}

// x[0, n), n <= 32, and zeros after it.
NIBBLE_INLINE void load_block(const float* x, size_t n, __m256 (&block)[4]) {
  alignas(32) float whole[kInt8Block] = {};
  if (n < kInt8Block) {
    __builtin_memcpy(whole, x, n * sizeof(float));
    x = whole;
  }
  NIBBLE_UNROLL
  for (size_t i = 0; i < 4; ++i) block[i] = _mm256_loadu_ps(x + 8 * i);
}

NIBBLE_INLINE uint32_t largest_magnitude(const __m256 (&block)[4]) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i largest = _mm256_setzero_si256();
  NIBBLE_UNROLL
  for (size_t i = 0; i < 4; ++i)
    largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(block[i]), magnitude));
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(four));
}

NIBBLE_INLINE __m256i to_int(__m256 x, __m256 inverse) { return _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)); }

void quantize(const float* x, size_t cols, size_t group, const Int8Tokens& out, size_t token) noexcept {
  const size_t span = int8_span(group);
  int8_t* const values = out.values + token * out.blocks * kInt8Block;
  uint32_t* const negated = out.negated + token * out.spans;
  float* const sums = out.sums + token * out.groups;
  for (size_t g = 0; g < out.groups; ++g) sums[g] = 0;
  for (size_t b = 0; b < out.blocks; ++b) {
    const size_t begin = b * kInt8Block;
    __m256 block[4];
    load_block(x + begin, cols - begin < kInt8Block ? cols - begin : kInt8Block, block);
    const uint32_t bits = largest_magnitude(block);
    float largest;
    __builtin_memcpy(&largest, &bits, 4);
    float scale = largest / 127.0f;
    __m256i bytes = _mm256_setzero_si256();
    if (bits >= 0x7f800000u) {
      scale = __builtin_nanf("");
    } else if (largest < 1e-30f) {
      scale = 0;
    } else {
      const __m256 inverse = _mm256_set1_ps(127.0f / largest);
      // The packs interleave the two halves of their arguments; the permutation undoes it.
      bytes = _mm256_packs_epi16(_mm256_packs_epi32(to_int(block[0], inverse), to_int(block[1], inverse)),
                                 _mm256_packs_epi32(to_int(block[2], inverse), to_int(block[3], inverse)));
      bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(values + begin), bytes);
    out.scales[token * out.blocks + b] = scale;
    // 16-bit sums of pairs, 32-bit sums of fours; then the two lanes, which are the halves, in the lowest elements.
    __m256i fours = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
    fours = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0x4e));
    fours = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0xb1));
    const int halves[2] = {_mm256_extract_epi32(fours, 0), _mm256_extract_epi32(fours, 4)};
    if (span == kInt8Block) {
      negated[b] = static_cast<uint32_t>(-(halves[0] + halves[1])) & 0xffffu;
      sums[begin / group] += scale * static_cast<float>(halves[0] + halves[1]);
    } else {
      for (size_t h = 0; h < 2; ++h) {
        negated[2 * b + h] = static_cast<uint32_t>(-halves[h]) & 0xffffu;
        sums[(begin + 16 * h) / group] += scale * static_cast<float>(halves[h]);
      }
    }
  }
}

}  // namespace
NIBBLE_TARGET_END

extern const Int8Table int8_avx2;
const Int8Table int8_avx2 = {"avx2",           "avx2",           avx2::usable,        quantize,     unpack,
                             avx2::pack_int8,  products,         avx2::kTiles,        avx2::kStrip, avx2::kPlanes,
                             avx2::make_strip, avx2::make_panel, avx2::panel_products};

}  // namespace nibble::kernels
#endif
