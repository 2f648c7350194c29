#if defined(__x86_64__)
#include "kernels/avx2.h"

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"
#include "kernels/row_products.h"
#include "kernels/target.h"

namespace nibble::kernels {

NIBBLE_TARGET_BEGIN("avx2,fma,f16c")
namespace {

using Vec = __m256;
constexpr size_t kLanes = 8;
// 12 sums, 2 vectors of weights and 1 broadcast in 16 registers.
constexpr size_t kTileTokens = 6;
constexpr size_t kTileVectors = 2;
constexpr size_t kRowSums = 10;
constexpr size_t kRowsOfOneToken = 4;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

Vec set(float value) { return _mm256_set1_ps(value); }
Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
Vec subtract(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
Vec multiply(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
Vec divide(Vec a, Vec b) { return _mm256_div_ps(a, b); }
Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
Vec larger(Vec a, Vec b) { return _mm256_max_ps(a, b); }
Vec smaller(Vec a, Vec b) { return _mm256_min_ps(a, b); }
Vec round_even(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

__m256i first_lanes(size_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

Vec load(const float* p) { return _mm256_loadu_ps(p); }
Vec load_part(const float* p, size_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
Vec load_part_or(const float* p, size_t n, float rest) {
  return _mm256_blendv_ps(set(rest), load_part(p, n), _mm256_castsi256_ps(first_lanes(n)));
}
void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
void store_part(float* p, Vec v, size_t n) { _mm256_maskstore_ps(p, first_lanes(n), v); }

// n < 8 halves; AVX2 has no masked loads narrower than 32 bits.
__m128i load_halves_part(const uint16_t* p, size_t n) {
  alignas(16) uint16_t buffer[8] = {};
  memcpy(buffer, p, 2 * n);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(buffer));
}
void store_halves_part(uint16_t* p, __m128i v, size_t n) {
  alignas(16) uint16_t buffer[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(buffer), v);
  memcpy(p, buffer, 2 * n);
}

Vec widen_bf16(__m128i halves) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16)); }

__m128i narrow_bf16(Vec v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

struct F32 {
  using Element = float;
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec load_part(const float* p, size_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
};
struct F16 {
  using Element = uint16_t;
  static Vec load(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Vec load_part(const uint16_t* p, size_t n) { return _mm256_cvtph_ps(load_halves_part(p, n)); }
};
struct BF16 {
  using Element = uint16_t;
  static Vec load(const uint16_t* p) { return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Vec load_part(const uint16_t* p, size_t n) { return widen_bf16(load_halves_part(p, n)); }
};

void store_f16(uint16_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
void store_f16_part(uint16_t* p, Vec v, size_t n) {
  store_halves_part(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT), n);
}
void store_bf16(uint16_t* p, Vec v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_bf16(v)); }
void store_bf16_part(uint16_t* p, Vec v, size_t n) { store_halves_part(p, narrow_bf16(v), n); }

Vec widen_codes(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)); }
__m128i narrow_codes(Vec v) {
  const __m256i codes = _mm256_cvttps_epi32(v);
  const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
  return _mm_packus_epi16(halves, halves);
}
Vec load_codes(const uint8_t* p) { return widen_codes(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
Vec load_codes_part(const uint8_t* p, size_t n) {
  alignas(16) uint8_t buffer[16] = {};
  memcpy(buffer, p, n);
  return widen_codes(_mm_load_si128(reinterpret_cast<const __m128i*>(buffer)));
}
void store_codes(uint8_t* p, Vec v) { _mm_storel_epi64(reinterpret_cast<__m128i*>(p), narrow_codes(v)); }
void store_codes_part(uint8_t* p, Vec v, size_t n) {
  alignas(16) uint8_t buffer[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(buffer), narrow_codes(v));
  memcpy(p, buffer, n);
}

float total(Vec v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
float highest(Vec v) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
float lowest(Vec v) { return -highest(subtract(set(0), v)); }

bool any_nan(Vec v) { return _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) != 0; }
size_t first_equal(Vec a, Vec b) {
  const int lanes = _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
  return lanes == 0 ? kLanes : static_cast<size_t>(__builtin_ctz(static_cast<unsigned>(lanes)));
}
Vec keep_if_positive(Vec test, Vec v) { return _mm256_and_ps(v, _mm256_cmp_ps(test, set(0), _CMP_GT_OQ)); }

// Two factors of about 2^(n/2) each: one alone would leave the range of normal floats.
Vec exp_scale(Vec y, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return multiply(multiply(y, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}

class DoubleSum {
 public:
  // Written out: an implicit constructor would be compiled for the baseline CPU.
  DoubleSum() : low_(_mm256_setzero_pd()), high_(_mm256_setzero_pd()) {}
  void add(Vec v) {
    low_ = _mm256_add_pd(low_, _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
    high_ = _mm256_add_pd(high_, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
  }
  void add_product(Vec p, Vec a, Vec b) {
    low_ = _mm256_fmadd_pd(
        _mm256_cvtps_pd(_mm256_castps256_ps128(p)),
        _mm256_sub_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_castps256_ps128(b))), low_);
    high_ = _mm256_fmadd_pd(
        _mm256_cvtps_pd(_mm256_extractf128_ps(p, 1)),
        _mm256_sub_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)), _mm256_cvtps_pd(_mm256_extractf128_ps(b, 1))),
        high_);
  }
  double total() const {
    const __m256d four = _mm256_add_pd(low_, high_);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
  }

 private:
  __m256d low_;
  __m256d high_;
};

// One or two rows need more panels for their FMAs to overlap; 12 sums fill the registers.
constexpr size_t score_panels(size_t rows) { return rows <= 3 ? 2 : 1; }
constexpr size_t weigh_vectors(size_t rows) { return rows <= 3 ? 4 : 2; }

Vec signed_codes(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
Vec levels(__m128i codes) {
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kKvLevels));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_shuffle_epi8(table, _mm_and_si128(codes, _mm_set1_epi8(15)))));
}
Vec low_levels(const uint8_t* p) { return levels(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
Vec high_levels(const uint8_t* p) {
  return levels(_mm_srli_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), 4));
}
Vec half(uint16_t bits) { return set(_cvtsh_ss(bits)); }
template <size_t S>
Vec swap_lanes(Vec v) {
  if constexpr (S == 1) return _mm256_permute_ps(v, 0xb1);
  if constexpr (S == 2) return _mm256_permute_ps(v, 0x4e);
  return _mm256_permute2f128_ps(v, v, 1);
}

#include "kernels/vector_linear.inc"
#include "kernels/vector_math.inc"
#include "kernels/vector_rows.inc"

#include "kernels/vector_attention.inc"

}  // namespace
NIBBLE_TARGET_END

extern const RowTable avx2_rows;
const RowTable avx2_rows = {"avx2", row_products<F32>, row_products<F16>, row_products<BF16>};

extern const Table avx2_table;
const Table avx2_table = {
    .name = "avx2",
    .usable = avx2::usable,
#include "kernels/vector_table.inc"
};

}  // namespace nibble::kernels
#endif
