#pragma once
#include <cstddef>

#include "quant/spec.h"

namespace nibble {

// What a token's n inputs become when they pass through `spec`: rounded to its grid and scaled back. In place allowed.
//   symmetric   s = max|x| / (2^(bits-1) - 1), codes -2^(bits-1) .. 2^(bits-1) - 1
//   asymmetric  s = (max - min) / (2^bits - 1) over a range that includes 0, integer zero point
//   FP8         s = max|x| / 448, the nearest E4M3 value, ties to even
// Mode kStatic has s and the zero point from `spec`; values beyond the grid take its ends.
// Mode kNone, an all-zero token, and one with an infinity or NaN (so that the fault stays visible) pass unchanged.
void quantize_token(const ActivationSpec& spec, const float* x, float* out, size_t n) noexcept;

}  // namespace nibble
