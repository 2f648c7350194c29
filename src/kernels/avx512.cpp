#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <limits>

#include "kernels/avx2.h"
#include "kernels/kernels.h"
#include "kernels/row_products.h"
#include "kernels/target.h"

namespace nibble::kernels {

static bool avx512_usable() {
  return avx2::usable() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

NIBBLE_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")
namespace {

using Vec = __m512;
constexpr size_t kLanes = 16;
// 24 sums, 3 vectors of weights and 1 broadcast in 32 registers. Not 14 x 2: with a stride of a power of two, 14 rows
// of x would compete for the eight ways of one cache set (70 instead of 97 GFLOP/s at 512 x 2048 x 2048 on a Zen 4
// core).
constexpr size_t kTileTokens = 8;
constexpr size_t kTileVectors = 3;
constexpr size_t kRowSums = 24;
constexpr size_t kRowsOfOneToken = 1;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

Vec set(float value) { return _mm512_set1_ps(value); }
Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
Vec subtract(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
Vec multiply(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
Vec divide(Vec a, Vec b) { return _mm512_div_ps(a, b); }
Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
Vec larger(Vec a, Vec b) { return _mm512_max_ps(a, b); }
Vec smaller(Vec a, Vec b) { return _mm512_min_ps(a, b); }
Vec round_even(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

__mmask16 first_lanes(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }

Vec load(const float* p) { return _mm512_loadu_ps(p); }
Vec load_part(const float* p, size_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
Vec load_part_or(const float* p, size_t n, float rest) { return _mm512_mask_loadu_ps(set(rest), first_lanes(n), p); }
void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
void store_part(float* p, Vec v, size_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }

__m256i load_halves(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
__m256i load_halves_part(const uint16_t* p, size_t n) { return _mm256_maskz_loadu_epi16(first_lanes(n), p); }

Vec widen_bf16(__m256i halves) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)); }

__m256i narrow_bf16(Vec v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}

struct F32 {
  using Element = float;
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec load_part(const float* p, size_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
};
struct F16 {
  using Element = uint16_t;
  static Vec load(const uint16_t* p) { return _mm512_cvtph_ps(load_halves(p)); }
  static Vec load_part(const uint16_t* p, size_t n) { return _mm512_cvtph_ps(load_halves_part(p, n)); }
};
struct BF16 {
  using Element = uint16_t;
  static Vec load(const uint16_t* p) { return widen_bf16(load_halves(p)); }
  static Vec load_part(const uint16_t* p, size_t n) { return widen_bf16(load_halves_part(p, n)); }
};

__m256i narrow_f16(Vec v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
void store_f16(uint16_t* p, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_f16(v)); }
void store_f16_part(uint16_t* p, Vec v, size_t n) { _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_f16(v)); }
void store_bf16(uint16_t* p, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(v)); }
void store_bf16_part(uint16_t* p, Vec v, size_t n) { _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_bf16(v)); }

Vec widen_codes(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)); }
__m128i narrow_codes(Vec v) { return _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v)); }
Vec load_codes(const uint8_t* p) { return widen_codes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
Vec load_codes_part(const uint8_t* p, size_t n) { return widen_codes(_mm_maskz_loadu_epi8(first_lanes(n), p)); }
void store_codes(uint8_t* p, Vec v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_codes(v)); }
void store_codes_part(uint8_t* p, Vec v, size_t n) { _mm_mask_storeu_epi8(p, first_lanes(n), narrow_codes(v)); }

float total(Vec v) { return _mm512_reduce_add_ps(v); }
float highest(Vec v) { return _mm512_reduce_max_ps(v); }
float lowest(Vec v) { return _mm512_reduce_min_ps(v); }

bool any_nan(Vec v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0; }
size_t first_equal(Vec a, Vec b) {
  const unsigned lanes = _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
  return lanes == 0 ? kLanes : static_cast<size_t>(__builtin_ctz(lanes));
}
Vec keep_if_positive(Vec test, Vec v) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, set(0), _CMP_GT_OQ), v); }
Vec exp_scale(Vec y, Vec n) { return _mm512_scalef_ps(y, n); }

class DoubleSum {
 public:
  // Written out: an implicit constructor would be compiled for the baseline CPU.
  DoubleSum() : low_(_mm512_setzero_pd()), high_(_mm512_setzero_pd()) {}
  void add(Vec v) {
    low_ = _mm512_add_pd(low_, _mm512_cvtps_pd(_mm512_castps512_ps256(v)));
    high_ = _mm512_add_pd(high_, _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
  }
  void add_product(Vec p, Vec a, Vec b) {
    low_ = _mm512_fmadd_pd(
        _mm512_cvtps_pd(_mm512_castps512_ps256(p)),
        _mm512_sub_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(_mm512_castps512_ps256(b))), low_);
    high_ = _mm512_fmadd_pd(
        _mm512_cvtps_pd(_mm512_extractf32x8_ps(p, 1)),
        _mm512_sub_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(b, 1))),
        high_);
  }
  double total() const { return _mm512_reduce_add_pd(_mm512_add_pd(low_, high_)); }

 private:
  __m512d low_;
  __m512d high_;
};

// 24 sums and 4 vectors of keys or values in 32 registers.
constexpr size_t score_panels(size_t) { return 4; }
constexpr size_t weigh_vectors(size_t) { return 4; }

Vec signed_codes(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
// The permutation reads the low four bits of each lane only.
Vec levels(__m512i codes) {
  const __m512 table = signed_codes(kKvLevels);
  return _mm512_permutexvar_ps(codes, table);
}
__m512i load_bytes(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
Vec low_levels(const uint8_t* p) { return levels(load_bytes(p)); }
Vec high_levels(const uint8_t* p) { return levels(_mm512_srli_epi32(load_bytes(p), 4)); }
Vec half(uint16_t bits) { return set(_cvtsh_ss(bits)); }
template <size_t S>
Vec swap_lanes(Vec v) {
  if constexpr (S == 1) return _mm512_permute_ps(v, 0xb1);
  if constexpr (S == 2) return _mm512_permute_ps(v, 0x4e);
  if constexpr (S == 4) return _mm512_shuffle_f32x4(v, v, 0xb1);
  return _mm512_shuffle_f32x4(v, v, 0x4e);
}

#include "kernels/vector_linear.inc"
#include "kernels/vector_math.inc"
#include "kernels/vector_rows.inc"

#include "kernels/vector_attention.inc"

}  // namespace
NIBBLE_TARGET_END

extern const RowTable avx512_rows;
const RowTable avx512_rows = {"avx512", row_products<F32>, row_products<F16>, row_products<BF16>};

extern const Table avx512_table;
const Table avx512_table = {
    .name = "avx512",
    .usable = avx512_usable,
#include "kernels/vector_table.inc"
};

}  // namespace nibble::kernels
#endif
