#pragma once
#include <cstddef>

#include "kernels/block_fit.h"

namespace nibble {

// Limits of the integers that multiply a block's two F16 bases, and how hard to look for them.
struct TwoLevelRange {
  size_t groups;  // of a block: 8 or 16
  int low, high;  // integers of scales
  int min_high;   // integers of mins, from 0 on; 0 without mins
  int rounds;     // of new bases for fixed integers, then new integers
};

// Replaces the maps of the blocks that `fit` holds side by side (kFitGroups / groups of them) by ones of two levels,
//   scale = d * q, min = -(dmin * p),
// with d and dmin F16 values (0 where all are) and integers q, p in range, as K-quants store them. It starts from the
// nearest such maps, by the weight that each scale has in the error, then looks for less error: for neighbours q of
// each group with the p that suits them, and for d and dmin by least squares over the block. The error after it is
// never above that of the start. `map` in: what the groups would like best.
void round_to_two_levels(const kernels::BlockFit& kernel, const kernels::FitGroups& fit, const TwoLevelRange& range,
                         kernels::FitMap& map);

}  // namespace nibble
