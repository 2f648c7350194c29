#include "quant/activations.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/kernels.h"

namespace nibble {
namespace {

constexpr float kLargestE4M3 = 448.0f;

// value must be within +-448. E4M3 keeps 3 bits after the leading one down to 2^-6, then steps of 2^-9.
float round_to_e4m3(float value) {
  constexpr uint32_t kExponent = 0x7f800000u;
  constexpr uint32_t kSmallestNormal = (127u - 6u) << 23;
  const uint32_t exponent = std::max(std::bit_cast<uint32_t>(value) & kExponent, kSmallestNormal);
  const float step = std::bit_cast<float>(exponent - (3u << 23));
  // Near 1.5 * 2^23 steps a float has no bits below one step: the addition rounds, to even.
  const float shift = step * 0x1.8p23f;
  return (value + shift) - shift;
}

void round_to_codes(const float* x, float* out, size_t n, float scale, float zero, float high) noexcept {
  const kernels::Table& k = kernels::active();
  uint8_t codes[512];
  for (size_t i = 0; i < n; i += sizeof codes) {
    const size_t count = std::min(sizeof codes, n - i);
    k.encode(x + i, count, scale, zero, 0.0f, high, codes);
    k.scale_codes(codes, scale, zero, out + i, count);
  }
}

}  // namespace

void quantize_token(const ActivationSpec& spec, const float* x, float* out, size_t n) noexcept {
  float low = 0, high = 0;
  kernels::active().min_max(x, n, &low, &high);
  const float largest = std::max(-low, high);
  if (spec.mode == ActivationSpec::Mode::kNone || !std::isfinite(low) || !std::isfinite(high) || largest == 0) {
    if (out != x) std::copy_n(x, n, out);
    return;
  }
  const bool fixed = spec.mode == ActivationSpec::Mode::kStatic;
  const auto top = static_cast<float>((1 << spec.bits) - 1);
  if (spec.grid == Grid::kFP8) {
    const float scale = fixed ? spec.scale : largest / kLargestE4M3;
    for (size_t i = 0; i < n; ++i)
      out[i] = scale * round_to_e4m3(std::clamp(x[i] / scale, -kLargestE4M3, kLargestE4M3));
  } else if (spec.symmetric) {
    const auto zero = static_cast<float>(1 << (spec.bits - 1));
    round_to_codes(x, out, n, fixed ? spec.scale : largest / std::max(zero - 1, 1.0f), zero, top);
  } else if (fixed) {
    round_to_codes(x, out, n, spec.scale, static_cast<float>(spec.zero), top);
  } else {
    low = std::min(low, 0.0f), high = std::max(high, 0.0f);
    const float scale = (high - low) / top;
    round_to_codes(x, out, n, scale, std::clamp(std::nearbyint(-low / scale), 0.0f, top), top);
  }
}

}  // namespace nibble
