#include "quant/ggml_two_level.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <numeric>

#include "core/half.h"

namespace nibble {
namespace {

// x = significand * 2^exponent with an odd significand; x is finite and not 0.
struct Dyadic {
  uint64_t significand;
  int exponent;
};

Dyadic split(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x) & 0x7fffffffu, stored = bits >> 23;
  const uint32_t significand = stored == 0 ? bits : (bits & 0x7fffffu) | 0x800000u;
  const int zeros = std::countr_zero(significand);
  return {significand >> zeros, static_cast<int>(std::max(stored, 1u)) - 150 + zeros};
}

bool fits(std::span<const float> values, float base, int low, int high, int* integers) {
  for (size_t i = 0; i < values.size(); ++i) {
    const float quotient = values[i] / base;
    const float whole = std::rint(quotient);
    if (!(whole >= static_cast<float>(low) && whole <= static_cast<float>(high)) || base * whole != values[i])
      return false;
    integers[i] = static_cast<int>(whole);
  }
  return true;
}

}  // namespace

std::optional<TwoLevel> split_two_levels(std::span<const float> values, int low, int high) {
  assert(values.size() <= 16 && low <= 0 && high > 0);
  // The greatest common divisor of the values as integers times 2^unit.
  int unit = 0;
  bool any = false;
  for (const float x : values)
    if (x != 0) unit = any ? std::min(unit, split(x).exponent) : split(x).exponent, any = true;
  if (!any) return TwoLevel{};
  uint64_t divisor = 0;
  for (const float x : values) {
    if (x == 0) continue;
    const Dyadic part = split(x);
    if (part.exponent - unit > 32) return std::nullopt;  // no two integers in range are so far apart
    divisor = std::gcd(divisor, part.significand << (part.exponent - unit));
  }
  // Bases are its fractions. The first that an F16 holds is the largest one.
  const double greatest = std::ldexp(static_cast<double>(divisor), unit);
  for (int fraction = 1; fraction <= std::max(high, -low); ++fraction) {
    const auto candidate = static_cast<float>(greatest / fraction);
    const float base = f16_to_f32(f32_to_f16(candidate));
    if (!std::isfinite(base) || static_cast<double>(base) * fraction != greatest) continue;
    TwoLevel result;
    for (const float sign : {1.0f, -1.0f}) {
      result.base = sign * base;
      if (fits(values, result.base, low, high, result.integers)) return result;
    }
  }
  return std::nullopt;
}

}  // namespace nibble
