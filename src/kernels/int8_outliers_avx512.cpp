#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/avx2.h"
#include "kernels/int8_outliers.h"
#include "kernels/target.h"

namespace nibble::kernels {

static bool outliers_avx512_usable() {
  return avx2::usable() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

NIBBLE_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")
namespace {

using Codes = __m512i;

NIBBLE_INLINE __m512i magnitude(__m512 v) {
  return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
}

NIBBLE_INLINE __m512 load_part(const float* p, size_t left) {
  if (left >= 16) return _mm512_loadu_ps(p);
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << left) - 1), p);
}

NIBBLE_INLINE void store_part(float* p, __m512 v, size_t left) {
  if (left >= 16)
    _mm512_storeu_ps(p, v);
  else
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << left) - 1), v);
}

size_t split(const float* x, size_t cols, float* rest, uint32_t* columns, float* values) noexcept {
  size_t count = 0;
  for (size_t begin = 0; begin < cols; begin += kInt8Block) {
    const size_t left = cols - begin, upper = left > 16 ? left - 16 : 0;
    const __m512 low = load_part(x + begin, left);
    const __m512 high = upper > 0 ? load_part(x + begin + 16, upper) : _mm512_setzero_ps();
    store_part(rest + begin, low, left);
    if (upper > 0) store_part(rest + begin + 16, high, upper);
    const __m512i lows = magnitude(low), highs = magnitude(high);
    const int first = _mm512_reduce_max_epi32(_mm512_max_epi32(lows, highs));
    const __m512i largest = _mm512_set1_epi32(first);
    const unsigned where = static_cast<unsigned>(_mm512_cmpeq_epi32_mask(lows, largest)) |
                           static_cast<unsigned>(_mm512_cmpeq_epi32_mask(highs, largest)) << 16;
    // Two of the same size: neither is more than the other.
    if (first >= 0x7f800000 || (where & (where - 1)) != 0) continue;
    const __m512i others = _mm512_max_epi32(_mm512_maskz_mov_epi32(static_cast<__mmask16>(~where & 0xffffu), lows),
                                            _mm512_maskz_mov_epi32(static_cast<__mmask16>(~where >> 16), highs));
    const int second = _mm512_reduce_max_epi32(others);
    float first_value, second_value;
    __builtin_memcpy(&first_value, &first, 4);
    __builtin_memcpy(&second_value, &second, 4);
    if (!(first_value > kOutlierRatio * second_value)) continue;
    const size_t at = begin + static_cast<size_t>(__builtin_ctz(where));
    columns[count] = static_cast<uint32_t>(at);
    values[count++] = x[at];
    rest[at] = 0;
  }
  return count;
}

NIBBLE_INLINE __m512 load_floats(const void* values, DType dtype, size_t at) {
  if (dtype == DType::kF32) return _mm512_loadu_ps(static_cast<const float*>(values) + at);
  const __m256i halves =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(values) + at));
  if (dtype == DType::kF16) return _mm512_cvtph_ps(halves);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// A lane of a plane's vector holds 4 columns of a row.
NIBBLE_INLINE Codes field(const uint8_t* plane, size_t byte, size_t from, int width, int to) {
  const __m512i bits =
      _mm512_srl_epi32(_mm512_load_si512(plane), _mm_cvtsi64_si128(static_cast<int64_t>(8 * byte + from)));
  return _mm512_sll_epi32(_mm512_and_si512(bits, _mm512_set1_epi32((1 << width) - 1)), _mm_cvtsi32_si128(to));
}

#include "kernels/int8_outliers.inc"

void load(const Int8Tile& w, const uint32_t* columns, size_t count, float* out, size_t stride) noexcept {
  size_t at = 0, end = w.group;  // of the group that holds the column
  for (size_t k = 0; k < count; ++k) {
    for (; columns[k] >= end; end += w.group) at += kInt8Rows;
    const size_t block = columns[k] / kInt8Block, within = columns[k] % kInt8Block;
    const __m512i codes = codes_of(w.codes + block * int8_block_bytes(w.bits), w.bits, within / 4, within % 4);
    const __m512 scale = load_floats(w.scales, w.scale_dtype, at);
    __m512 values;
    if (w.mins != nullptr) {
      values = _mm512_add_ps(_mm512_mul_ps(scale, _mm512_cvtepi32_ps(codes)), load_floats(w.mins, w.scale_dtype, at));
    } else {
      __m512i zero = _mm512_set1_epi32(w.zero);
      if (w.zeros != nullptr)
        zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + at)));
      values = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_sub_epi32(codes, zero)));
    }
    _mm512_storeu_ps(out + k * stride, values);
  }
}

void add(const float* loaded, size_t rows, const uint32_t* at, const float* values, size_t count, float* y) noexcept {
  for (size_t r = 0; r < rows; r += 16) {
    __m512 sum = _mm512_loadu_ps(y + r);
    for (size_t k = 0; k < count; ++k)
      sum = _mm512_fmadd_ps(_mm512_set1_ps(values[k]), _mm512_loadu_ps(loaded + at[k] * rows + r), sum);
    _mm512_storeu_ps(y + r, sum);
  }
}

}  // namespace
NIBBLE_TARGET_END

extern const OutlierTable outliers_avx512;
const OutlierTable outliers_avx512 = {"avx512", outliers_avx512_usable, split, load, add};

}  // namespace nibble::kernels
#endif
