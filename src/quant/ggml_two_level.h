#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace nibble {

// A block's scales as K-quants hold them: values[i] = base * integer[i], exactly, base an F16.
struct TwoLevel {
  float base = 0;
  int integers[16] = {};
};

// The largest base of which all values (at most 16, finite) are integer multiples in [low, high], low <= 0 < high; a
// positive one if there is, all zero when the values are. Nothing when there is none: the values are no products of an
// F16 and such integers.
std::optional<TwoLevel> split_two_levels(std::span<const float> values, int low, int high);

}  // namespace nibble
