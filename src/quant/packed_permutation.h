#pragma once
#include <cstdint>
#include <span>

namespace nibble {

// `h` is a symmetric matrix as its lower triangle by rows: element (r, c <= r) at r (r + 1) / 2 + c. H[i][k] becomes
// H[order[i]][order[k]], in place; order is a permutation of [0, n). Parallel.
void permute_packed(std::span<double> h, std::span<const uint32_t> order);

}  // namespace nibble
