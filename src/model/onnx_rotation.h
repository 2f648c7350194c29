#pragma once
#include <optional>
#include <span>

namespace nibble {

// The base of a rotary embedding whose frequencies, [half the rotated dimensions], are theta^(-i / half); nothing where
// they are not (scaled ones).
std::optional<double> rotary_base(std::span<const double> frequencies);

}  // namespace nibble
