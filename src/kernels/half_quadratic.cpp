#include "kernels/half_quadratic.h"

#include <cstdint>

#define NIBBLE_KERNEL "kernels/half_quadratic.inc"
#include "kernels/vector_widths.inc"

namespace nibble::kernels {

void half_quadratic(const Table& table, const HalfQuadratic& p, float* shifts, float* errors) noexcept {
  entry_for(table)(p, shifts, errors);
}

void half_quadratic(const HalfQuadratic& p, float* shifts, float* errors) noexcept {
  half_quadratic(active(), p, shifts, errors);
}

}  // namespace nibble::kernels
