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

// Rotates the pairs (i, i + dims / 2) of `head` by one row of the table, [dims / 2] each.
void rotate(float* head, size_t dims, const float* cosines, const float* sines);

}  // namespace nibble
