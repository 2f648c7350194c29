// The definition of every kernel: obvious, and what the other tables are tested against.
#include <cmath>
#include <limits>

#include "core/half.h"
#include "kernels/kernels.h"

namespace nibble::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kTileTokens = 4;
constexpr size_t kTileRows = 8;

// How the templates below read one element of each storage format.
struct F16 {
  static float read(uint16_t bits) { return nibble::f16_to_f32(bits); }
};
struct BF16 {
  static float read(uint16_t bits) { return nibble::bf16_to_f32(bits); }
};
struct F32 {
  static float read(float value) { return value; }
};

template <class Format>
void to_f32(const uint16_t* in, float* out, size_t n) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = Format::read(in[i]);
}

void f32_to_f16(const float* in, uint16_t* out, size_t n) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = nibble::f32_to_f16(in[i]);
}

void f32_to_bf16(const float* in, uint16_t* out, size_t n) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = nibble::f32_to_bf16(in[i]);
}

// Eight sums, so that long rows lose no more accuracy than in the vector tables.
template <class Format, class Element>
float dot(const Element* w, const float* x, size_t n) noexcept {
  float sums[8] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (size_t k = 0; k < 8; ++k) sums[k] += Format::read(w[i + k]) * x[i + k];
  for (size_t k = 0; i < n; ++i, ++k) sums[k] += Format::read(w[i]) * x[i];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

template <class Format, class Element>
void axpy(float a, const Element* x, float* y, size_t n) noexcept {
  for (size_t i = 0; i < n; ++i) y[i] += a * Format::read(x[i]);
}

void gemm_tile(const float* x, size_t x_stride, const float* w, size_t depth, float* acc, size_t acc_stride,
               size_t tokens, bool add) noexcept {
  for (size_t t = 0; t < tokens; ++t) {
    float sums[kTileRows] = {};
    for (size_t k = 0; k < depth; ++k)
      for (size_t r = 0; r < kTileRows; ++r) sums[r] += x[t * x_stride + k] * w[k * kTileRows + r];
    float* out = acc + t * acc_stride;
    for (size_t r = 0; r < kTileRows; ++r) out[r] = add ? out[r] + sums[r] : sums[r];
  }
}

void transpose(const float* in, size_t in_stride, size_t rows, size_t cols, float* out, size_t out_stride) noexcept {
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < cols; ++c) out[c * out_stride + r] = in[r * in_stride + c];
}

void unpack_codes(const uint8_t* packed, int bits, size_t first, size_t n, uint8_t* out) noexcept {
  const auto width = static_cast<size_t>(bits);
  const unsigned mask = (1u << bits) - 1;
  for (size_t i = 0; i < n; ++i) {
    const size_t bit = (first + i) * width;
    unsigned field = packed[bit / 8];
    if (bit % 8 + width > 8) field |= unsigned{packed[bit / 8 + 1]} << 8;
    out[i] = static_cast<uint8_t>((field >> (bit % 8)) & mask);
  }
}

void scale_codes(const uint8_t* codes, float scale, float zero, float* out, size_t n) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = scale * (static_cast<float>(codes[i]) - zero);
}

void scale_codes_min(const uint8_t* codes, float scale, float min, float* out, size_t n) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = scale * static_cast<float>(codes[i]) + min;
}

void rms_norm(const float* x, const float* weight, float eps, float* out, size_t n) noexcept {
  double squares = 0;
  for (size_t i = 0; i < n; ++i) squares += double{x[i]} * double{x[i]};
  const auto inverse = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(n) + double{eps}));
  for (size_t i = 0; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

float largest(const float* x, size_t n) {
  float top = -kInfinity;
  for (size_t i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

void softmax(float* x, size_t n) noexcept {
  const float top = largest(x, n);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += double{x[i] = std::exp(x[i] - top)};
  const auto inverse = static_cast<float>(1.0 / sum);
  for (size_t i = 0; i < n; ++i) x[i] *= inverse;
}

double log_sum_exp(const float* x, size_t n) noexcept {
  const float top = largest(x, n);
  if (top == -kInfinity) return double{top};
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += std::exp(double{x[i]} - double{top});
  return double{top} + std::log(sum);
}

void swiglu(const float* gate, const float* up, float* out, size_t n) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

double kl_divergence(const float* ref, double ref_lse, const float* x, double x_lse, size_t n) noexcept {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    const double log_p = double{ref[i]} - ref_lse;
    const double p = std::exp(log_p);
    if (p > 0) sum += p * (log_p - (double{x[i]} - x_lse));
  }
  return sum;
}

size_t argmax(const float* x, size_t n) noexcept {
  size_t best = 0;
  float top = -kInfinity;
  for (size_t i = 0; i < n; ++i)
    if (x[i] > top) top = x[best = i];
  return best;
}

void min_max(const float* x, size_t n, float* lo, float* hi) noexcept {
  float low = kInfinity, high = -kInfinity;
  bool nan = false;
  for (size_t i = 0; i < n; ++i) {
    nan = nan || std::isnan(x[i]);
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  *lo = nan ? std::numeric_limits<float>::quiet_NaN() : low;
  *hi = high;
}

void encode(const float* x, size_t n, float scale, float zero, float low, float high, uint8_t* codes) noexcept {
  for (size_t i = 0; i < n; ++i) {
    float code = std::nearbyint(x[i] / scale) + zero;
    code = code > low ? code : low;  // also where the code is NaN (0 / 0)
    code = code < high ? code : high;
    codes[i] = static_cast<uint8_t>(code);
  }
}

bool usable() { return true; }

}  // namespace

extern const Table scalar_table;
const Table scalar_table = {
    .name = "scalar",
    .usable = usable,
    .f16_to_f32 = to_f32<F16>,
    .bf16_to_f32 = to_f32<BF16>,
    .f32_to_f16 = f32_to_f16,
    .f32_to_bf16 = f32_to_bf16,
    .dot_f32 = dot<F32, float>,
    .dot_f16 = dot<F16, uint16_t>,
    .dot_bf16 = dot<BF16, uint16_t>,
    .axpy_f32 = axpy<F32, float>,
    .axpy_f16 = axpy<F16, uint16_t>,
    .axpy_bf16 = axpy<BF16, uint16_t>,
    .tile_tokens = kTileTokens,
    .tile_rows = kTileRows,
    .gemm_tile = gemm_tile,
    .transpose = transpose,
    .unpack_codes = unpack_codes,
    .scale_codes = scale_codes,
    .scale_codes_min = scale_codes_min,
    .rms_norm = rms_norm,
    .softmax = softmax,
    .log_sum_exp = log_sum_exp,
    .swiglu = swiglu,
    .kl_divergence = kl_divergence,
    .argmax = argmax,
    .min_max = min_max,
    .encode = encode,
};

}  // namespace nibble::kernels
