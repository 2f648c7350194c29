#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/avx2.h"
#include "kernels/int8_avx2.h"
#include "kernels/int8_vnni.h"
#include "kernels/target.h"

namespace nibble::kernels {

static bool vnni_usable() {
  return avx2::usable() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}

NIBBLE_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#include "kernels/int8_vnni.inc"
namespace {

// Bytes from the block in use to the one that is asked for, into the L2 cache: the hardware alone looks less far ahead
// than narrow codes, which take longer to unpack, need. Measured from memory on Zen 4 with 4-bit codes: 15.5 GB/s at
// 2 KiB into L1, 20.5 at 8 KiB into L2; with 8-bit codes 18 at 8 KiB, 21 at 2 KiB. On Sapphire Rapids a small model
// decodes with two threads and 8-bit codes at 192 tok/s for 2 KiB, 242 for 4, 254 for 8.
template <int Bits>
constexpr size_t kAhead = Bits == 8 ? 4096 : 8192;

// A sum over a span takes 4 cycles for each step, so few tokens have two: narrow codes whose bits lie in the upper half
// of a byte stay there, and their sum, 16 times too large, is the second one.
constexpr size_t kMostSplit = 4;

template <int Bits, int S>
constexpr bool kSecond = Bits >= 4   ? S % 2 == 1
                         : Bits >= 2 ? S % 4 >= 2
                                     : S >= 4;
template <int Bits>
constexpr int kUp = Bits <= 4 ? 4 : 0;

// Adds steps [S, End) to the integer sums [1 or 2][Tokens]; values: the tokens' first columns of the block.
template <int Bits, size_t Tokens, int S, int End>
NIBBLE_INLINE void add_steps(const __m512i* planes, const int8_t* values, size_t stride, __m512i* dots) {
  if constexpr (S < End) {
    constexpr bool kIsSecond = Tokens <= kMostSplit && kSecond<Bits, S>;
    const __m512i codes = step < Bits, S, kIsSecond ? kUp<Bits> : 0 > (planes);
    __m512i* const sums = dots + (kIsSecond ? Tokens : 0);
    NIBBLE_UNROLL
    for (size_t t = 0; t < Tokens; ++t) {
      int four;
      __builtin_memcpy(&four, values + t * stride + 4 * S, 4);
      sums[t] = _mm512_dpbusd_epi32(sums[t], codes, _mm512_set1_epi32(four));
    }
    add_steps<Bits, Tokens, S + 1, End>(planes, values, stride, dots);
  }
}

// For 512 int4 weights and one token: 14 loads, 8 operations to unpack, 8 dot products, and 6 to add up and scale.
template <int Bits, size_t Tokens, int Steps>
void tile(const Int8Tile& w, const Int8Tokens& x, size_t first, float* y) noexcept {
  constexpr size_t kSpan = 4 * Steps;
  const size_t spans_of_group = w.group / kSpan, stride = x.blocks * kInt8Block;
  const int8_t* const values = x.values + first * stride;
  const float* const token_scales = x.scales + first * x.blocks;
  const uint32_t* const negated = x.negated + first * x.spans;
  __m512 totals[Tokens];
  NIBBLE_UNROLL
  for (size_t t = 0; t < Tokens; ++t) totals[t] = _mm512_setzero_ps();
  __m512i zero = _mm512_set1_epi32(w.zero);
  for (size_t s = 0, g = 0; s < x.spans; ++g) {
    const size_t end = x.spans - s < spans_of_group ? x.spans : s + spans_of_group;
    if (w.zeros != nullptr)
      zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + g * kInt8Rows)));
    const __m512 scale = load_floats(w.scales, w.scale_dtype, g);
    for (; s < end; ++s) {
      const size_t b = s * kSpan / kInt8Block;
      const uint8_t* const block = w.codes + b * int8_block_bytes(Bits);
      const int8_t* const columns = values + b * kInt8Block;
      __m512i planes[kPlaneVectors<Bits>];
      load_planes<Bits, (Tokens <= 2 && Bits != 8)>(block, planes);
      __m512i dots[2 * Tokens];
      NIBBLE_UNROLL
      for (size_t t = 0; t < Tokens; ++t) {
        dots[t] = _mm512_madd_epi16(zero, _mm512_set1_epi32(static_cast<int>(negated[t * x.spans + s])));
        dots[Tokens + t] = _mm512_setzero_si512();
      }
      if (Steps == 8 || s % 2 == 0) {
        NIBBLE_UNROLL
        for (size_t i = 0; i < kPlaneVectors<Bits>; ++i)
          _mm_prefetch(reinterpret_cast<const char*>(block + kAhead<Bits> + i * kInt8Vector), _MM_HINT_T1);
        add_steps<Bits, Tokens, 0, Steps>(planes, columns, stride, dots);
      } else {
        add_steps<Bits, Tokens, 8 - Steps, 8>(planes, columns, stride, dots);
      }
      if constexpr (Tokens <= kMostSplit) {
        NIBBLE_UNROLL
        for (size_t t = 0; t < Tokens; ++t) {
          __m512i second = dots[Tokens + t];
          if constexpr (kUp < Bits >> 0) second = _mm512_srai_epi32(second, kUp<Bits>);
          dots[t] = _mm512_add_epi32(dots[t], second);
        }
      }
      NIBBLE_UNROLL
      for (size_t t = 0; t < Tokens; ++t) {
        const __m512 token_scale = _mm512_set1_ps(token_scales[t * x.blocks + b]);
        totals[t] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dots[t]), token_scale), scale, totals[t]);
      }
    }
    if (w.mins != nullptr) {
      const __m512 min = load_floats(w.mins, w.scale_dtype, g);
      NIBBLE_UNROLL
      for (size_t t = 0; t < Tokens; ++t)
        totals[t] = _mm512_fmadd_ps(min, _mm512_set1_ps(x.sums[(first + t) * x.groups + g]), totals[t]);
    }
  }
  NIBBLE_UNROLL
  for (size_t t = 0; t < Tokens; ++t) _mm512_storeu_ps(y + t * kInt8Rows, totals[t]);
}

template <int Bits, size_t Tokens>
void tile_of(const Int8Tile& w, const Int8Tokens& x, size_t first, float* y) noexcept {
  if (int8_span(w.group) == kInt8Block)
    tile<Bits, Tokens, 8>(w, x, first, y);
  else
    tile<Bits, Tokens, 4>(w, x, first, y);
}

// The tokens by eights, fours, twos and ones: the tile stays in the L1 cache meanwhile.
template <int Bits, size_t Most = 8>
void tokens_of(const Int8Tile& w, const Int8Tokens& x, size_t first, size_t count, float* y) noexcept {
  for (; count >= Most; first += Most, count -= Most, y += Most * kInt8Rows) tile_of<Bits, Most>(w, x, first, y);
  if constexpr (Most > 1) tokens_of<Bits, Most / 2>(w, x, first, count, y);
}

void products(const Int8Tile& w, const Int8Tokens& x, size_t first, size_t count, float* y) noexcept {
  using Products = void (*)(const Int8Tile&, const Int8Tokens&, size_t, size_t, float*) noexcept;
  static constexpr Products kOfBits[] = {tokens_of<0>, tokens_of<1>, tokens_of<2>, tokens_of<3>, tokens_of<4>,
                                         tokens_of<5>, tokens_of<6>, tokens_of<7>, tokens_of<8>};
  kOfBits[w.bits](w, x, first, count, y);
}

template <int Bits, int S>
NIBBLE_INLINE void store_steps(const __m512i* planes, uint8_t* out) {
  if constexpr (S < static_cast<int>(kInt8Steps)) {
    _mm512_storeu_si512(out + S * kInt8Vector, step<Bits, S>(planes));
    store_steps<Bits, S + 1>(planes, out);
  }
}

template <int Bits>
void unpack_of(const uint8_t* packed, size_t blocks, uint8_t* steps) noexcept {
  for (size_t b = 0; b < blocks; ++b) {
    __m512i planes[kPlaneVectors<Bits>];
    load_planes<Bits, false>(packed + b * int8_block_bytes(Bits), planes);
    store_steps<Bits, 0>(planes, steps + b * kInt8Steps * kInt8Vector);
  }
}

void unpack(const uint8_t* packed, int bits, size_t blocks, uint8_t* steps) noexcept {
  using Unpack = void (*)(const uint8_t*, size_t, uint8_t*) noexcept;
  static constexpr Unpack kOfBits[] = {unpack_of<0>, unpack_of<1>, unpack_of<2>, unpack_of<3>, unpack_of<4>,
                                       unpack_of<5>, unpack_of<6>, unpack_of<7>, unpack_of<8>};
  kOfBits[bits](packed, blocks, steps);
}

void quantize(const float* x, size_t cols, size_t group, const Int8Tokens& out, size_t token) noexcept {
  const size_t span = int8_span(group);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  int8_t* const values = out.values + token * out.blocks * kInt8Block;
  uint32_t* const negated = out.negated + token * out.spans;
  float* const sums = out.sums + token * out.groups;
  for (size_t g = 0; g < out.groups; ++g) sums[g] = 0;
  for (size_t b = 0; b < out.blocks; ++b) {
    const size_t begin = b * kInt8Block, left = cols - begin < kInt8Block ? cols - begin : kInt8Block;
    const auto mask = static_cast<uint32_t>((uint64_t{1} << left) - 1);
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask & 0xffffu), x + begin);
    const __m512 high = mask >> 16 == 0 ? _mm512_setzero_ps()
                                        : _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + begin + 16);
    const auto bits = static_cast<uint32_t>(
        _mm512_reduce_max_epi32(_mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                                                 _mm512_and_si512(_mm512_castps_si512(high), magnitude))));
    float largest;
    __builtin_memcpy(&largest, &bits, 4);
    float scale = largest / 127.0f;
    __m128i first = _mm_setzero_si128(), second = _mm_setzero_si128();
    if (bits >= 0x7f800000u) {
      scale = __builtin_nanf("");
    } else if (largest < 1e-30f) {
      scale = 0;
    } else {
      const __m512 inverse = _mm512_set1_ps(127.0f / largest);
      first = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)));
      second = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(high, inverse)));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(values + begin), first);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(values + begin + 16), second);
    out.scales[token * out.blocks + b] = scale;
    // Sums of fours; then the two lanes, which are the halves, in the lowest elements.
    const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
    __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
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

extern const Int8Table int8_vnni;
const Int8Table int8_vnni = {"vnni",           "avx512",         vnni_usable,         quantize,     unpack,
                             avx2::pack_int8,  products,         vnni::kTiles,        vnni::kStrip, vnni::kPlanes,
                             vnni::make_strip, vnni::make_panel, vnni::panel_products};

}  // namespace nibble::kernels
#endif
