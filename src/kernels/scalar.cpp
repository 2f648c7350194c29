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

// Column c of one position.
float key_at(const KvView& keys, size_t position, size_t c) {
  const size_t panel = position / kKvPanel, lane = position % kKvPanel;
  const size_t at = (panel * keys.width + c) * kKvPanel + lane;
  const size_t block = (panel * (keys.width / kKvBlock) + c / kKvBlock) * kKvPanel + lane;
  switch (keys.format) {
    case KvFormat::kF32:
      return static_cast<const float*>(keys.data)[at];
    case KvFormat::kF16:
      return nibble::f16_to_f32(static_cast<const uint16_t*>(keys.data)[at]);
    case KvFormat::kBF16:
      return nibble::bf16_to_f32(static_cast<const uint16_t*>(keys.data)[at]);
    case KvFormat::kQ8:
      return static_cast<float>(static_cast<const int8_t*>(keys.data)[at]) * nibble::f16_to_f32(keys.scales[block]);
    case KvFormat::kQ4:
      break;
  }
  const size_t row = c / kKvBlock * (kKvBlock / 2) + c % (kKvBlock / 2);
  const uint8_t pair = static_cast<const uint8_t*>(keys.data)[(panel * (keys.width / 2) + row) * kKvPanel + lane];
  const int code = c % kKvBlock < kKvBlock / 2 ? pair & 15 : pair >> 4;
  return static_cast<float>(kKvLevels[code]) * nibble::f16_to_f32(keys.scales[block]);
}

float value_at(const KvView& values, size_t position, size_t c) {
  const size_t at = position * values.width + c, block = position * (values.width / kKvBlock) + c / kKvBlock;
  switch (values.format) {
    case KvFormat::kF32:
      return static_cast<const float*>(values.data)[at];
    case KvFormat::kF16:
      return nibble::f16_to_f32(static_cast<const uint16_t*>(values.data)[at]);
    case KvFormat::kBF16:
      return nibble::bf16_to_f32(static_cast<const uint16_t*>(values.data)[at]);
    case KvFormat::kQ8:
      return static_cast<float>(static_cast<const int8_t*>(values.data)[at]) * nibble::f16_to_f32(values.scales[block]);
    case KvFormat::kQ4:
      break;
  }
  const size_t byte = position * (values.width / 2) + c / kKvBlock * (kKvBlock / 2) + c % (kKvBlock / 2);
  const uint8_t pair = static_cast<const uint8_t*>(values.data)[byte];
  const int code = c % kKvBlock < kKvBlock / 2 ? pair & 15 : pair >> 4;
  return static_cast<float>(kKvLevels[code]) * nibble::f16_to_f32(values.scales[block]);
}

void kv_scores(const KvView& keys, size_t panels, const float* queries, size_t query_stride, size_t rows, float* scores,
               size_t score_stride) noexcept {
  for (size_t r = 0; r < rows; ++r)
    for (size_t p = 0; p < panels * kKvPanel; ++p) {
      float sum = 0;
      for (size_t c = 0; c < keys.width; ++c) sum += queries[r * query_stride + c] * key_at(keys, p, c);
      scores[r * score_stride + p] = sum;
    }
}

void kv_weigh(const KvView& values, size_t positions, const float* weights, size_t weight_stride, size_t rows,
              float* sums, size_t sum_stride) noexcept {
  for (size_t i = 0; i < positions; ++i)
    for (size_t c = 0; c < values.width; ++c) {
      const float value = value_at(values, i, c);
      for (size_t r = 0; r < rows; ++r) sums[r * sum_stride + c] += weights[r * weight_stride + i] * value;
    }
}

void kv_expand_keys(const KvView& keys, size_t panels, float* out) noexcept {
  for (size_t p = 0; p < panels * kKvPanel; ++p)
    for (size_t c = 0; c < keys.width; ++c)
      out[(p / kKvPanel * keys.width + c) * kKvPanel + p % kKvPanel] = key_at(keys, p, c);
}

void kv_expand_values(const KvView& values, size_t positions, float* out) noexcept {
  for (size_t i = 0; i < positions; ++i)
    for (size_t c = 0; c < values.width; ++c) out[i * values.width + c] = value_at(values, i, c);
}

uint8_t nearest_level(float x) {
  uint8_t code = 0;
  while (code < 15 && x > static_cast<float>(kKvLevels[code] + kKvLevels[code + 1]) / 2) ++code;
  return code;
}

void quantize_q4(const float* x, size_t blocks, uint8_t* codes, uint16_t* scales) noexcept {
  for (size_t b = 0; b < blocks; ++b, x += kKvBlock, codes += kKvBlock) {
    float top = 0, best_scale = 0, best_gain = 0;
    bool finite = true;
    for (size_t i = 0; i < kKvBlock; ++i) {
      codes[i] = 0;
      finite = finite && std::isfinite(x[i]);
      if (std::abs(x[i]) > std::abs(top)) top = x[i];
    }
    for (const float share : {0.85f, 1.0f, 1.15f}) {
      if (top == 0 || !finite) break;
      const float inverse = static_cast<float>(kKvLevels[0]) / (top * share);
      float product = 0, square = 0;
      for (size_t i = 0; i < kKvBlock; ++i) {
        const auto level = static_cast<float>(kKvLevels[nearest_level(x[i] * inverse)]);
        product += level * x[i], square += level * level;
      }
      const float gain = product / square * product;
      if (!(gain > best_gain)) continue;
      best_gain = gain, best_scale = product / square;
      for (size_t i = 0; i < kKvBlock; ++i) codes[i] = nearest_level(x[i] * inverse);
    }
    if (!finite) best_scale = std::numeric_limits<float>::quiet_NaN();
    scales[b] = nibble::f32_to_f16(best_scale);
  }
}

float softmax_part(float* x, size_t n, float* top, double* sum) noexcept {
  const float before = *top, here = largest(x, n), now = here > before ? here : before;
  double added = 0;
  for (size_t i = 0; i < n; ++i) added += double{x[i] = std::exp(x[i] - now)};
  const float factor = now == before ? 1.0f : std::exp(before - now);
  *top = now;
  *sum = *sum * double{factor} + added;
  return factor;
}

void rope(float* head, size_t half_dims, const float* cosines, const float* sines) noexcept {
  for (size_t i = 0; i < half_dims; ++i) {
    const float a = head[i], b = head[i + half_dims];
    head[i] = a * cosines[i] - b * sines[i];
    head[i + half_dims] = b * cosines[i] + a * sines[i];
  }
}

void hadamard(float* x, size_t n, float scale) noexcept {
  for (size_t stride = 1; stride < n; stride *= 2)
    for (size_t i = 0; i < n; ++i)
      if ((i & stride) == 0) {
        const float a = x[i], b = x[i + stride];
        x[i] = a + b, x[i + stride] = a - b;
      }
  for (size_t i = 0; i < n; ++i) x[i] *= scale;
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
    .kv_scores = kv_scores,
    .kv_weigh = kv_weigh,
    .kv_expand_keys = kv_expand_keys,
    .kv_expand_values = kv_expand_values,
    .quantize_q4 = quantize_q4,
    .softmax_part = softmax_part,
    .rope = rope,
    .hadamard = hadamard,
};

}  // namespace nibble::kernels
