#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/int8_avx2.h"
#include "kernels/target.h"

// Many tokens: a register tile of 2 x 8 rows and 3 tokens. A step of it is 2 loads of weights and 3 broadcasts for 6
// multiplications and as many additions, so that loads do not bound it. Pairs of products of codes below 16 add up in
// 16 bits over a whole block: 8 * 2 * 15 * 127 < 2^15. Wider codes are two planes of 4 bits, the upper one times 16.
namespace nibble::kernels::avx2 {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c")
#include "kernels/int8_avx2.inc"
namespace {

constexpr size_t kPlane = kInt8Steps * kInt8Vector;  // bytes of a plane of a block

template <int Bits, int S>
NIBBLE_INLINE void store_steps(const uint8_t* block, uint8_t* out) {
  if constexpr (S < static_cast<int>(kInt8Steps)) {
    const __m256i codes = step<Bits, S>(block), low = _mm256_set1_epi8(15);
    auto* const to = reinterpret_cast<__m256i*>(out + S * kInt8Vector);
    if constexpr (Bits <= 4) {
      _mm256_store_si256(to, codes);
    } else {
      _mm256_store_si256(to, _mm256_and_si256(codes, low));
      _mm256_store_si256(to + kPlane / sizeof(__m256i), _mm256_and_si256(shift<4>(codes), low));
    }
    store_steps<Bits, S + 1>(block, out);
  }
}

template <int Bits>
void unpack_of(const uint8_t* packed, size_t blocks, uint8_t* out) noexcept {
  constexpr size_t kBytes = kPlane * (Bits <= 4 ? 1 : 2);
  for (size_t b = 0; b < blocks; ++b)
    for (size_t half = 0; half < kInt8Vector; half += kHalf)
      store_steps<Bits, 0>(packed + b * int8_block_bytes(Bits) + half, out + b * kBytes + half);
}

// 16-bit sums of one plane over a span.
template <size_t Tokens, int Steps>
NIBBLE_INLINE void plane_pairs(const uint8_t* codes, const uint8_t* values, __m256i (&pairs)[2][Tokens]) {
  NIBBLE_UNROLL
  for (size_t i = 0; i < Steps; ++i) {
    const __m256i low = load(codes + i * kInt8Vector), high = load(codes + i * kInt8Vector + kHalf);
    NIBBLE_UNROLL
    for (size_t t = 0; t < Tokens; ++t) {
      int four;
      __builtin_memcpy(&four, values + (i * kStrip + t) * 4, 4);
      const __m256i token = _mm256_set1_epi32(four);
      const __m256i products[2] = {_mm256_maddubs_epi16(low, token), _mm256_maddubs_epi16(high, token)};
      pairs[0][t] = i == 0 ? products[0] : add16(pairs[0][t], products[0]);
      pairs[1][t] = i == 0 ? products[1] : add16(pairs[1][t], products[1]);
    }
  }
}

template <size_t Tokens, int Steps, size_t Planes>
void multiply(const Int8Panel& w, const Int8Strip& x, float* y) noexcept {
  const size_t spans_of_group = w.group / (4 * Steps);
  for (size_t i = 0; i < Tokens * kInt8Rows; i += 8) _mm256_storeu_ps(y + i, _mm256_setzero_ps());
  for (size_t s = 0, g = 0; s < w.spans; ++g) {
    const size_t end = w.spans - s < spans_of_group ? w.spans : s + spans_of_group;
    __m256 sums[2][Tokens];
    NIBBLE_UNROLL
    for (size_t t = 0; t < Tokens; ++t) sums[0][t] = sums[1][t] = _mm256_setzero_ps();
    for (; s < end; ++s) {
      const size_t b = s * Steps / kInt8Steps, within = s * Steps % kInt8Steps;
      const uint8_t* const codes = w.codes + b * Planes * kPlane + within * kInt8Vector;
      const uint8_t* const values = x.values + s * Steps * kStrip * 4;
      const auto* const rest = reinterpret_cast<const __m256i*>(w.rest + g * kInt8Rows);
      __m256i dots[2][Tokens], pairs[2][Tokens];
      if constexpr (Planes == 2) {
        plane_pairs<Tokens, Steps>(codes + kPlane, values, pairs);
        NIBBLE_UNROLL
        for (size_t h = 0; h < 2; ++h) {
          NIBBLE_UNROLL
          for (size_t t = 0; t < Tokens; ++t) dots[h][t] = _mm256_madd_epi16(pairs[h][t], _mm256_set1_epi16(16));
        }
      }
      plane_pairs<Tokens, Steps>(codes, values, pairs);
      NIBBLE_UNROLL
      for (size_t t = 0; t < Tokens; ++t) {
        const __m256i negated = _mm256_set1_epi32(static_cast<int>(x.negated[s * kStrip + t]));  // upper 16 bits: 0
        const __m256 scale = _mm256_set1_ps(x.scales[b * kStrip + t]);
        NIBBLE_UNROLL
        for (size_t h = 0; h < 2; ++h) {
          __m256i dot = _mm256_madd_epi16(pairs[h][t], _mm256_set1_epi16(1));
          dot = _mm256_add_epi32(dot, _mm256_madd_epi16(_mm256_load_si256(rest + h), negated));
          if constexpr (Planes == 2) dot = _mm256_add_epi32(dot, dots[h][t]);
          sums[h][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sums[h][t]);
        }
      }
    }
    // The compiler is not to keep y in registers: there are none left.
    __asm__ volatile("" ::: "memory");
    NIBBLE_UNROLL
    for (size_t h = 0; h < 2; ++h) {
      const size_t at = g * kInt8Rows + 8 * h;
      NIBBLE_UNROLL
      for (size_t t = 0; t < Tokens; ++t) {
        float* const out = y + t * kInt8Rows + 8 * h;
        __m256 total = _mm256_fmadd_ps(sums[h][t], _mm256_load_ps(w.scales + at), _mm256_loadu_ps(out));
        if (w.has_mins)
          total = _mm256_fmadd_ps(_mm256_load_ps(w.mins + at), _mm256_set1_ps(x.sums[g * kStrip + t]), total);
        _mm256_storeu_ps(out, total);
      }
    }
  }
}

template <size_t Tokens>
void multiply_tokens(const Int8Panel& w, const Int8Strip& x, float* y) noexcept {
  if (int8_span(w.group) == kInt8Block)
    w.planes == 1 ? multiply<Tokens, 8, 1>(w, x, y) : multiply<Tokens, 8, 2>(w, x, y);
  else
    w.planes == 1 ? multiply<Tokens, 4, 1>(w, x, y) : multiply<Tokens, 4, 2>(w, x, y);
}

}  // namespace

void make_strip(const Int8Tokens& x, size_t first, size_t count, const Int8Strip& out) noexcept {
  for (size_t t = 0; t < count; ++t) {
    const int8_t* const values = x.values + (first + t) * x.blocks * kInt8Block;
    for (size_t i = 0; i < x.blocks * kInt8Steps; ++i)
      __builtin_memcpy(out.values + (i * kStrip + t) * 4, values + 4 * i, 4);
    for (size_t b = 0; b < x.blocks; ++b) out.scales[b * kStrip + t] = x.scales[(first + t) * x.blocks + b];
    for (size_t s = 0; s < x.spans; ++s) out.negated[s * kStrip + t] = x.negated[(first + t) * x.spans + s];
    for (size_t g = 0; g < x.groups; ++g) out.sums[g * kStrip + t] = x.sums[(first + t) * x.groups + g];
  }
}

void make_panel(const Int8Tile* w, Int8Panel& out) noexcept {
  using Unpack = void (*)(const uint8_t*, size_t, uint8_t*) noexcept;
  static constexpr Unpack kOfBits[] = {unpack_of<0>, unpack_of<1>, unpack_of<2>, unpack_of<3>, unpack_of<4>,
                                       unpack_of<5>, unpack_of<6>, unpack_of<7>, unpack_of<8>};
  out.planes = w->bits <= 4 ? 1 : 2;
  out.has_rest = true;
  out.has_mins = w->mins != nullptr;
  kOfBits[w->bits](w->codes, w->blocks, out.codes);
  for (size_t at = 0; at < out.groups * kInt8Rows; at += 8) {
    __m256i zero = _mm256_set1_epi32(w->zero);
    if (w->zeros != nullptr)
      zero = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w->zeros + at)));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out.rest + at), zero);
    _mm256_store_ps(out.scales + at, load_floats(w->scales, w->scale_dtype, at));
    if (out.has_mins) _mm256_store_ps(out.mins + at, load_floats(w->mins, w->scale_dtype, at));
  }
}

void panel_products(const Int8Panel& w, const Int8Strip& x, size_t count, float* y) noexcept {
  using Multiply = void (*)(const Int8Panel&, const Int8Strip&, float*) noexcept;
  static constexpr Multiply kOfTokens[kStrip] = {multiply_tokens<1>, multiply_tokens<2>, multiply_tokens<3>};
  kOfTokens[count - 1](w, x, y);
}

NIBBLE_TARGET_END

}  // namespace nibble::kernels::avx2
#endif
