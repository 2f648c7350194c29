#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/quantized_matrix.h"

// Rounding one group of weights: what the data-free algorithms share.
namespace nibble {

// The map of one group: value = scale * (grid(code) - zero), as QuantizedMatrix defines it.
struct GroupScale {
  float scale = 1.0f;  // a value of spec.scale_dtype, finite, never 0
  uint8_t zero = 0;    // asymmetric grids only
};

// `scale` rounded to `dtype`. What would become 0 becomes the smallest scale that is kept (2^-24 in F16, 2^-126
// otherwise), what would overflow becomes the largest finite one: such groups lose precision or range, never give NaN.
float storable_scale(float scale, DType dtype);
// The same for a stored min: 0 is one, and what is too small becomes 0.
float storable_min(float min, DType dtype);

// The round-to-nearest map of weights in [lo, hi] (finite), with the range multiplied by `clip`:
//   symmetric    scale = absmax / (2^(bits-1) - 1)
//   full range   scale = extreme / -2^(bits-1), extreme = the bound of larger magnitude with its sign (lo on ties)
//   asymmetric   lo and hi extended to include 0; scale = (hi - lo) / (2^bits - 1), zero = rint(-lo / scale) in range
//   table grids  scale = absmax / largest |level|
//   1 bit, symmetric: scale = absmax / 2, the mean of evenly spread weights; fit_group() knows better
// zero is computed with the scale as it will be stored. An all-zero range gets scale 1, zero 0.
GroupScale fit_range(const QuantSpec& spec, float lo, float hi, float clip);
// The same for a group itself; 1-bit symmetric groups get the mean of |w|, the least-squares scale.
// Throws Error(kCorrupt) when a weight is NaN or infinite.
GroupScale fit_group(const QuantSpec& spec, std::span<const float> weights, float clip);

// codes[i] = code of the value nearest to weights[i]: ties go to the even code on integer grids (after division by the
// scale, before the zero point is added) and on FP4 and FP8 (even bit pattern, as IEEE rounding has it); elsewhere to
// the level with the even code. Values beyond the grid saturate. 1-bit symmetric: the sign, 0 counts as positive.
void encode_group(const QuantSpec& spec, const GroupScale& map, std::span<const float> weights,
                  uint8_t* codes) noexcept;

// What codes stand for before scaling: grid(code) - zero.
inline float code_value(const QuantSpec& spec, const GroupScale& map, uint8_t code) noexcept {
  if (spec.grid != Grid::kInt) return grid_levels(spec.grid)[code];
  const ValueMap unit = value_map(spec, 1.0f, spec.symmetric ? spec.symmetric_zero() : map.zero);
  return unit.scale * (static_cast<float>(code) - unit.zero);
}

}  // namespace nibble
