#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/int8_vnni.h"
#include "kernels/target.h"

// Many tokens: a register tile of 2 x 16 rows and 6 tokens. A step of it, 4 columns, is 2 loads of weights, 6
// broadcasts of activations and 12 dot products, of which a core does one per cycle. dpbusd takes one operand without
// sign: the activations plus 128. What that adds to a sum, 128 times the sum of the weights, is known when the panel is
// made, so the sums start from its negative: neither it nor the weights' zero points cost anything per token.
namespace nibble::kernels::vnni {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#include "kernels/int8_vnni.inc"
namespace {

constexpr size_t kRows = kTiles * kInt8Rows;
constexpr size_t kPanelStep = kTiles * kInt8Vector;  // bytes of 4 columns

// Steps [S, End) of tile `tile` of a block, minus `shift`; returns the sum of the bytes over these columns.
template <int Bits, int S, int End>
NIBBLE_INLINE __m512i unpack_steps(const __m512i* planes, __m512i shift, uint8_t* out, __m512i sum) {
  if constexpr (S < End) {
    const __m512i codes = _mm512_sub_epi8(step<Bits, S>(planes), shift);
    _mm512_store_si512(out + S * kPanelStep, codes);
    sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), codes);
    return unpack_steps<Bits, S + 1, End>(planes, shift, out, sum);
  } else {
    return sum;
  }
}

// One tile of the panel, its rows from `row` on.
template <int Bits, int Steps>
void unpack_tile(const Int8Tile& w, const Int8Panel& out, size_t row) noexcept {
  constexpr size_t kSpan = 4 * Steps;
  const size_t spans_of_group = w.group / kSpan;
  for (size_t s = 0, g = 0; s < out.spans; ++g) {
    const size_t end = out.spans - s < spans_of_group ? out.spans : s + spans_of_group, at = g * kRows + row;
    __m512i zero = _mm512_set1_epi32(w.zero);
    if (w.zeros != nullptr)
      zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + g * kInt8Rows)));
    if (out.has_rest) {
      _mm512_store_si512(out.rest + at, _mm512_sub_epi32(zero, _mm512_set1_epi32(128)));
      zero = _mm512_set1_epi32(128);
    }
    _mm512_store_ps(out.scales + at, load_floats(w.scales, w.scale_dtype, g));
    if (out.has_mins) _mm512_store_ps(out.mins + at, load_floats(w.mins, w.scale_dtype, g));
    const __m512i shift = _mm512_mullo_epi32(zero, _mm512_set1_epi32(0x01010101));
    for (; s < end; ++s) {
      const size_t b = s * kSpan / kInt8Block;
      __m512i planes[kPlaneVectors<Bits>];
      load_planes<Bits, false>(w.codes + b * int8_block_bytes(Bits), planes);
      uint8_t* const codes = out.codes + b * kInt8Steps * kPanelStep + row / kInt8Rows * kInt8Vector;
      __m512i sum = _mm512_setzero_si512();
      if (Steps == 8 || s % 2 == 0)
        sum = unpack_steps<Bits, 0, Steps>(planes, shift, codes, sum);
      else
        sum = unpack_steps<Bits, 8 - Steps, 8>(planes, shift, codes, sum);
      _mm512_store_si512(out.starts + s * kRows + row, _mm512_mullo_epi32(sum, _mm512_set1_epi32(-128)));
    }
  }
}

template <int Bits>
void unpack_tile_of(const Int8Tile& w, const Int8Panel& out, size_t row) noexcept {
  if (int8_span(w.group) == kInt8Block)
    unpack_tile<Bits, 8>(w, out, row);
  else
    unpack_tile<Bits, 4>(w, out, row);
}

// Adds the products of a span to integer sums that start from `start`.
template <size_t Tokens, int Steps>
NIBBLE_INLINE void add_steps(const uint8_t* codes, const uint8_t* values, __m512i* low, __m512i* high) {
  NIBBLE_UNROLL
  for (size_t i = 0; i < Steps; ++i) {
    const __m512i first = _mm512_load_si512(codes + i * kPanelStep);
    const __m512i second = _mm512_load_si512(codes + i * kPanelStep + kInt8Vector);
    NIBBLE_UNROLL
    for (size_t t = 0; t < Tokens; ++t) {
      int four;
      __builtin_memcpy(&four, values + (i * kStrip + t) * 4, 4);
      const __m512i token = _mm512_set1_epi32(four);
      low[t] = _mm512_dpbusd_epi32(low[t], token, first);
      high[t] = _mm512_dpbusd_epi32(high[t], token, second);
    }
  }
}

// Integer sums of span s, in group g. Rest: is there a part of the zero points that the codes do not hold?
template <size_t Tokens, int Steps, bool Rest>
NIBBLE_INLINE void span_dots(const Int8Panel& w, const Int8Strip& x, size_t s, size_t g, __m512i* low, __m512i* high) {
  const int32_t* const starts = w.starts + s * kRows;
  NIBBLE_UNROLL
  for (size_t t = 0; t < Tokens; ++t) {
    low[t] = _mm512_load_si512(starts);
    high[t] = _mm512_load_si512(starts + kInt8Rows);
    if constexpr (Rest) {
      const __m512i negated = _mm512_set1_epi32(static_cast<int>(x.negated[s * kStrip + t]));
      low[t] = _mm512_dpwssd_epi32(low[t], _mm512_load_si512(w.rest + g * kRows), negated);
      high[t] = _mm512_dpwssd_epi32(high[t], _mm512_load_si512(w.rest + g * kRows + kInt8Rows), negated);
    }
  }
  add_steps<Tokens, Steps>(w.codes + s * Steps * kPanelStep, x.values + s * Steps * kStrip * 4, low, high);
}

template <size_t Tokens>
NIBBLE_INLINE void add_mins(const Int8Panel& w, const Int8Strip& x, size_t g, __m512* low, __m512* high) {
  const __m512 low_min = _mm512_load_ps(w.mins + g * kRows), high_min = _mm512_load_ps(w.mins + g * kRows + kInt8Rows);
  NIBBLE_UNROLL
  for (size_t t = 0; t < Tokens; ++t) {
    const __m512 sum = _mm512_set1_ps(x.sums[g * kStrip + t]);
    low[t] = _mm512_fmadd_ps(low_min, sum, low[t]);
    high[t] = _mm512_fmadd_ps(high_min, sum, high[t]);
  }
}

// Every span's sums are scaled at once and added to those of the rows, which stay in registers. To collect a longer
// group first would save a product for each span and cost two trips to memory for each group.
template <size_t Tokens, int Steps, bool Rest>
void multiply(const Int8Panel& w, const Int8Strip& x, float* y) noexcept {
  const size_t spans_of_group = w.group / (4 * Steps);
  __m512 low[Tokens], high[Tokens];
  NIBBLE_UNROLL
  for (size_t t = 0; t < Tokens; ++t) low[t] = high[t] = _mm512_setzero_ps();
  for (size_t s = 0, g = 0; s < w.spans; ++g) {
    const size_t end = w.spans - s < spans_of_group ? w.spans : s + spans_of_group;
    for (; s < end; ++s) {
      __m512i low_dots[Tokens], high_dots[Tokens];
      span_dots<Tokens, Steps, Rest>(w, x, s, g, low_dots, high_dots);
      const float* const scales = x.scales + s * Steps / kInt8Steps * kStrip;
      const __m512 low_scale = _mm512_load_ps(w.scales + g * kRows);
      const __m512 high_scale = _mm512_load_ps(w.scales + g * kRows + kInt8Rows);
      NIBBLE_UNROLL
      for (size_t t = 0; t < Tokens; ++t) {
        const __m512 scale = _mm512_set1_ps(scales[t]);
        low[t] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(low_dots[t]), scale), low_scale, low[t]);
        high[t] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(high_dots[t]), scale), high_scale, high[t]);
      }
    }
    if (w.has_mins) add_mins<Tokens>(w, x, g, low, high);
  }
  NIBBLE_UNROLL
  for (size_t t = 0; t < Tokens; ++t) {
    _mm512_storeu_ps(y + t * kRows, low[t]);
    _mm512_storeu_ps(y + t * kRows + kInt8Rows, high[t]);
  }
}

template <size_t Tokens>
void multiply_tokens(const Int8Panel& w, const Int8Strip& x, float* y) noexcept {
  if (int8_span(w.group) == kInt8Block)
    w.has_rest ? multiply<Tokens, 8, true>(w, x, y) : multiply<Tokens, 8, false>(w, x, y);
  else
    w.has_rest ? multiply<Tokens, 4, true>(w, x, y) : multiply<Tokens, 4, false>(w, x, y);
}

}  // namespace

void make_strip(const Int8Tokens& x, size_t first, size_t count, const Int8Strip& out) noexcept {
  for (size_t t = 0; t < count; ++t) {
    const int8_t* const values = x.values + (first + t) * x.blocks * kInt8Block;
    for (size_t b = 0; b < x.blocks; ++b) {
      const __m256i block = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + b * kInt8Block));
      alignas(32) uint32_t steps[kInt8Steps];
      _mm256_store_si256(reinterpret_cast<__m256i*>(steps), _mm256_xor_si256(block, _mm256_set1_epi8(-128)));
      uint8_t* const to = out.values + (b * kInt8Steps * kStrip + t) * 4;
      NIBBLE_UNROLL
      for (size_t s = 0; s < kInt8Steps; ++s) __builtin_memcpy(to + s * kStrip * 4, steps + s, 4);
    }
    for (size_t b = 0; b < x.blocks; ++b) out.scales[b * kStrip + t] = x.scales[(first + t) * x.blocks + b];
    for (size_t s = 0; s < x.spans; ++s) out.negated[s * kStrip + t] = x.negated[(first + t) * x.spans + s];
    for (size_t g = 0; g < x.groups; ++g) out.sums[g * kStrip + t] = x.sums[(first + t) * x.groups + g];
  }
}

void make_panel(const Int8Tile* w, Int8Panel& out) noexcept {
  using Unpack = void (*)(const Int8Tile&, const Int8Panel&, size_t) noexcept;
  static constexpr Unpack kOfBits[] = {unpack_tile_of<0>, unpack_tile_of<1>, unpack_tile_of<2>,
                                       unpack_tile_of<3>, unpack_tile_of<4>, unpack_tile_of<5>,
                                       unpack_tile_of<6>, unpack_tile_of<7>, unpack_tile_of<8>};
  // Codes of 8 bits fit a signed byte only around 128.
  out.has_rest = w->bits == 8 && (w->zeros != nullptr || w->zero != 128);
  out.has_mins = w->mins != nullptr;
  out.planes = 1;
  for (size_t i = 0; i < kTiles; ++i) kOfBits[w[i].bits](w[i], out, i * kInt8Rows);
}

void panel_products(const Int8Panel& w, const Int8Strip& x, size_t count, float* y) noexcept {
  using Multiply = void (*)(const Int8Panel&, const Int8Strip&, float*) noexcept;
  static constexpr Multiply kOfTokens[kStrip] = {multiply_tokens<1>, multiply_tokens<2>, multiply_tokens<3>,
                                                 multiply_tokens<4>, multiply_tokens<5>, multiply_tokens<6>};
  kOfTokens[count - 1](w, x, y);
}

NIBBLE_TARGET_END

}  // namespace nibble::kernels::vnni
#endif
