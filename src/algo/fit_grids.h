#pragma once
#include "algo/algorithm.h"
#include "algo/grid_fit.h"

namespace nibble {

// Which errors a grid is fitted for.
enum class GridWeights : uint8_t {
  kRange,       // none: it covers the weights, as round to nearest has it
  kEqual,       // of all columns alike
  kImportance,  // by the mean square of the input; alike where there is no calibration data
};

// Every group's scale and zero point or min, and the nearest codes: the grids from which rounding with error feedback
// starts. Any grid, mins included; one scale per tensor covers the tensor's range. Columns without input count as 0.
QuantizedMatrix fit_grids(const Rounding& rounding, GridWeights weights, const GridFitOptions& options);

// The map of one group as fit_grids() finds it, with kRange where `fit` is null; min with spec.mins only.
struct GroupGrid {
  GroupScale map;
  float min = 0;
};
GroupGrid fit_group_grid(const QuantSpec& spec, std::span<const float> w, std::span<const float> h, GridFit* fit,
                         uint8_t* codes);

}  // namespace nibble
