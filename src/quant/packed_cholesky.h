#pragma once
#include <cstddef>
#include <span>

namespace nibble {

// `h` is a symmetric matrix as its lower triangle by rows: element (r, c <= r) at r (r + 1) / 2 + c. It becomes L,
// lower triangular, with H = L^T L ("reverse" Cholesky: the last row comes first), in place but for the panels of one
// block of rows. False where H is not positive definite to rounding; it is then as it was, to rounding. Parallel; does
// not depend on the thread count.
bool factor_packed(std::span<double> h, size_t n);

}  // namespace nibble
