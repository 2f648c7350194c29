#pragma once
#include <concepts>
#include <cstddef>
#include <limits>
#include <string_view>
#include <utility>

#include "core/error.h"

// Arithmetic for numbers read from files. Each throws Error(kCorrupt) naming `what` instead of wrapping.
namespace nibble {

inline size_t checked_mul(size_t a, size_t b, std::string_view what) {
  size_t out = 0;
  if (__builtin_mul_overflow(a, b, &out)) throw Error(ErrorKind::kCorrupt, cat(what, " is too large: ", a, " x ", b));
  return out;
}

inline size_t checked_add(size_t a, size_t b, std::string_view what) {
  size_t out = 0;
  if (__builtin_add_overflow(a, b, &out)) throw Error(ErrorKind::kCorrupt, cat(what, " is too large: ", a, " + ", b));
  return out;
}

template <std::integral To, std::integral From>
To checked_cast(From value, std::string_view what) {
  if (!std::in_range<To>(value)) throw Error(ErrorKind::kCorrupt, cat(what, " is out of range: ", +value));
  return static_cast<To>(value);
}

// ceil(a / b) for b > 0, without overflow.
constexpr size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0 ? 1 : 0); }
constexpr size_t round_up(size_t a, size_t multiple) { return ceil_div(a, multiple) * multiple; }

}  // namespace nibble
