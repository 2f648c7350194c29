#pragma once
#include <cstddef>

namespace nibble::kernels {

struct Table;

// Half-quadratic quantization (Badri & Shaji 2023) of sixteen groups at once, each in steps of its own scale. With
//   e_i = steps[i] + shift minus the code nearest to it, in [0, top],
// an iteration adds the mean of sign(e_i) max(0, |e_i| - factor |e_i|^power) - e_i to the shift, 0 at first, and
// divides the factor by kappa.
constexpr size_t kHalfQuadraticGroups = 16;
struct HalfQuadratic {
  const float* steps;    // [n, 16]: a column for each group, (w - value of code 0) / scale
  size_t n;              // > 0
  const float* factors;  // [16]
  float top;             // the largest code
  float power;           // p - 1, in [-1, 0]
  float kappa;
  int iterations;
};

// shifts: [16], of the iterations that with the least sum |e_i|, the first of equals. errors: [16], that sum.
// Powers are accurate to 3e-6. Bit-equal in every table; a group's result does not depend on the others.
void half_quadratic(const HalfQuadratic& p, float* shifts, float* errors) noexcept;
// The same with the instructions of a given table: for tests.
void half_quadratic(const Table& table, const HalfQuadratic& p, float* shifts, float* errors) noexcept;

}  // namespace nibble::kernels
