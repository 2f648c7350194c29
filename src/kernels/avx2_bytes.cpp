#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#include <cstring>

#include "kernels/avx2.h"
#include "kernels/target.h"

namespace nibble::kernels::avx2 {

bool usable() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;  // clang 14 cannot ask for it by name
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

NIBBLE_TARGET_BEGIN("avx2,fma,f16c")
namespace {

// out[c][r] = in[r][c] for 8 x 8: 8 loads, 24 shuffles, 8 stores.
void transpose_8x8(const float* in, size_t in_stride, float* out, size_t out_stride) {
  __m256 pairs[8], fours[8];
  for (size_t i = 0; i < 8; i += 2) {
    const __m256 even = _mm256_loadu_ps(in + i * in_stride), odd = _mm256_loadu_ps(in + (i + 1) * in_stride);
    pairs[i] = _mm256_unpacklo_ps(even, odd);      // columns 0 1 | 4 5 of rows i, i + 1
    pairs[i + 1] = _mm256_unpackhi_ps(even, odd);  // columns 2 3 | 6 7
  }
  for (size_t i = 0; i < 8; i += 4) {
    fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);          // column 0 | 4 of rows i .. i + 3
    fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);      // 1 | 5
    fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);  // 2 | 6
    fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);  // 3 | 7
  }
  for (size_t c = 0; c < 4; ++c) {
    _mm256_storeu_ps(out + c * out_stride, _mm256_permute2f128_ps(fours[c], fours[c + 4], 0x20));
    _mm256_storeu_ps(out + (c + 4) * out_stride, _mm256_permute2f128_ps(fours[c], fours[c + 4], 0x31));
  }
}

// Sixteen codes from 2 * bits bytes, eight in each half of a register. Code j of a half starts in byte j * bits / 8: a
// shuffle brings that byte and the next into a 16-bit lane, a multiplication shifts the code to bit 8, a shift brings
// it down.
struct Unpacker {
  __m256i bytes;   // shuffle
  __m256i factor;  // 2^(8 - first bit)
  __m256i mask;

  explicit Unpacker(int bits) {
    alignas(16) uint8_t index[16];
    alignas(16) uint16_t power[8];
    for (int j = 0; j < 8; ++j) {
      const int bit = j * bits;
      index[2 * j] = static_cast<uint8_t>(bit / 8);
      index[2 * j + 1] = static_cast<uint8_t>(bit / 8 + 1);
      power[j] = static_cast<uint16_t>(1 << (8 - bit % 8));
    }
    bytes = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(index)));
    factor = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(power)));
    mask = _mm256_set1_epi16(static_cast<short>((1 << bits) - 1));
  }

  // Reads eight bytes at `low` and at `high`.
  __m128i sixteen(const uint8_t* low, const uint8_t* high) const {
    const __m128i halves[2] = {_mm_loadl_epi64(reinterpret_cast<const __m128i*>(low)),
                               _mm_loadl_epi64(reinterpret_cast<const __m128i*>(high))};
    __m256i lanes = _mm256_shuffle_epi8(_mm256_set_m128i(halves[1], halves[0]), bytes);
    lanes = _mm256_and_si256(_mm256_srli_epi16(_mm256_mullo_epi16(lanes, factor), 8), mask);
    return _mm_packus_epi16(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  }
};

// 32 codes of four bits from 16 bytes.
void unpack_32_fours(const uint8_t* packed, uint8_t* out) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed)), mask = _mm_set1_epi8(15);
  const __m128i even = _mm_and_si128(bytes, mask), odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_unpacklo_epi8(even, odd));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), _mm_unpackhi_epi8(even, odd));
}

uint8_t unpack_one(const uint8_t* packed, size_t bits, size_t i) {
  const size_t bit = i * bits;
  unsigned field = packed[bit / 8];
  if (bit % 8 + bits > 8) field |= static_cast<unsigned>(packed[bit / 8 + 1]) << 8;
  return static_cast<uint8_t>((field >> (bit % 8)) & ((1u << bits) - 1));
}

}  // namespace

void transpose(const float* in, size_t in_stride, size_t rows, size_t cols, float* out, size_t out_stride) noexcept {
  const size_t whole_rows = rows / 8 * 8, whole_cols = cols / 8 * 8;
  for (size_t r = 0; r < whole_rows; r += 8)
    for (size_t c = 0; c < whole_cols; c += 8)
      transpose_8x8(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = r < whole_rows ? whole_cols : 0; c < cols; ++c) out[c * out_stride + r] = in[r * in_stride + c];
}

void unpack_codes(const uint8_t* packed, int bits, size_t first, size_t n, uint8_t* out) noexcept {
  const auto width = static_cast<size_t>(bits);
  size_t i = 0;
  for (; i < n && (first + i) * width % 8 != 0; ++i) out[i] = unpack_one(packed, width, first + i);
  if (i == n) return;
  const uint8_t* from = packed + (first + i) * width / 8;
  const uint8_t* const end = packed + ((first + n) * width + 7) / 8;
  for (; bits == 4 && n - i >= 32; i += 32, from += 16) unpack_32_fours(from, out + i);
  if (i == n) return;
  const Unpacker unpacker(bits);
  while (n - i >= 16 && static_cast<size_t>(end - from) >= width + 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), unpacker.sixteen(from, from + width));
    i += 16;
    from += 2 * width;
  }
  // What is left goes through buffers, so that nothing past the end is read or written.
  while (i < n) {
    const size_t count = n - i < 16 ? n - i : 16;
    uint8_t source[24] = {}, codes[16];
    memcpy(source, from, (count * width + 7) / 8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), unpacker.sixteen(source, source + width));
    memcpy(out + i, codes, count);
    i += count;
    from += 2 * width;
  }
}

NIBBLE_TARGET_END

}  // namespace nibble::kernels::avx2
#endif
