#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/avx2.h"
#include "kernels/int8_outliers.h"
#include "kernels/target.h"

namespace nibble::kernels {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c")
namespace {

using Codes = __m256i;

NIBBLE_INLINE __m256i magnitude(const float* p) {
  return _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(p)), _mm256_set1_epi32(0x7fffffff));
}

NIBBLE_INLINE int largest(__m256i v) {
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return _mm_cvtsi128_si32(four);
}

size_t split(const float* x, size_t cols, float* rest, uint32_t* columns, float* values) noexcept {
  size_t count = 0;
  for (size_t begin = 0; begin < cols; begin += kInt8Block) {
    const size_t left = cols - begin < kInt8Block ? cols - begin : kInt8Block;
    float block[kInt8Block] = {};
    __builtin_memcpy(block, x + begin, left * sizeof(float));
    __builtin_memcpy(rest + begin, block, left * sizeof(float));
    const __m256i v[4] = {magnitude(block), magnitude(block + 8), magnitude(block + 16), magnitude(block + 24)};
    const int first = largest(_mm256_max_epi32(_mm256_max_epi32(v[0], v[1]), _mm256_max_epi32(v[2], v[3])));
    if (first >= 0x7f800000) continue;
    const __m256i top = _mm256_set1_epi32(first);
    unsigned where = 0;
    __m256i others = _mm256_setzero_si256();
    NIBBLE_UNROLL
    for (unsigned i = 0; i < 4; ++i) {
      const __m256i equal = _mm256_cmpeq_epi32(v[i], top);
      where |= static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(equal))) << 8 * i;
      others = _mm256_max_epi32(others, _mm256_andnot_si256(equal, v[i]));
    }
    if ((where & (where - 1)) != 0) continue;  // two of the same size: neither is more than the other
    const int second = largest(others);
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

NIBBLE_INLINE __m256 load_floats(const void* values, DType dtype, size_t at) {
  if (dtype == DType::kF32) return _mm256_loadu_ps(static_cast<const float*>(values) + at);
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(values) + at));
  if (dtype == DType::kF16) return _mm256_cvtph_ps(halves);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

// A lane of a plane's vector holds 4 columns of a row.
NIBBLE_INLINE Codes field(const uint8_t* plane, size_t byte, size_t from, int width, int to) {
  const __m256i four = _mm256_load_si256(reinterpret_cast<const __m256i*>(plane));
  const __m256i bits = _mm256_srl_epi32(four, _mm_cvtsi64_si128(static_cast<int64_t>(8 * byte + from)));
  return _mm256_sll_epi32(_mm256_and_si256(bits, _mm256_set1_epi32((1 << width) - 1)), _mm_cvtsi32_si128(to));
}

#include "kernels/int8_outliers.inc"

void load(const Int8Tile& w, const uint32_t* columns, size_t count, float* out, size_t stride) noexcept {
  size_t at = 0, end = w.group;  // of the group that holds the column
  for (size_t k = 0; k < count; ++k) {
    for (; columns[k] >= end; end += w.group) at += kInt8Rows;
    const size_t within = columns[k] % kInt8Block;
    const uint8_t* const block = w.codes + columns[k] / kInt8Block * int8_block_bytes(w.bits);
    for (size_t row = 0; row < kInt8Rows; row += 8) {
      const __m256i codes = codes_of(block + 4 * row, w.bits, within / 4, within % 4);
      const __m256 scale = load_floats(w.scales, w.scale_dtype, at + row);
      __m256 values;
      if (w.mins != nullptr) {
        values = _mm256_add_ps(_mm256_mul_ps(scale, _mm256_cvtepi32_ps(codes)),
                               load_floats(w.mins, w.scale_dtype, at + row));
      } else {
        __m256i zero = _mm256_set1_epi32(w.zero);
        if (w.zeros != nullptr)
          zero = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w.zeros + at + row)));
        values = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, zero)));
      }
      _mm256_storeu_ps(out + k * stride + row, values);
    }
  }
}

void add(const float* loaded, size_t rows, const uint32_t* at, const float* values, size_t count, float* y) noexcept {
  for (size_t r = 0; r < rows; r += 8) {
    __m256 sum = _mm256_loadu_ps(y + r);
    for (size_t k = 0; k < count; ++k)
      sum = _mm256_fmadd_ps(_mm256_set1_ps(values[k]), _mm256_loadu_ps(loaded + at[k] * rows + r), sum);
    _mm256_storeu_ps(y + r, sum);
  }
}

}  // namespace
NIBBLE_TARGET_END

extern const OutlierTable outliers_avx2;
const OutlierTable outliers_avx2 = {"avx2", avx2::usable, split, load, add};

}  // namespace nibble::kernels
#endif
