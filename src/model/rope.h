#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "model/config.h"

namespace nibble {

// Radians per position of each rotated pair, [dims / 2]. Formulae as in the papers that RopeConfig names.
std::vector<double> rope_frequencies(const RopeConfig& rope);

// cos and sin of `positions` consecutive positions from `first` on, each [positions, frequencies], times `magnitude`.
// Angles are rounded to float before the functions are taken, as checkpoints were trained.
void rope_table(std::span<const float> frequencies, float magnitude, size_t first, size_t positions, float* cosines,
                float* sines);

}  // namespace nibble
