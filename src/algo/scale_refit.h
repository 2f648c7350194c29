#pragma once
#include <span>

#include "algo/lane_rows.h"

namespace nibble {

// Refits the scales (and mins) of rounded rows, codes fixed: with u_g the levels of group g's columns, 0 elsewhere, and
// d the differences, the corrections s_g that minimise (d - sum s_g u_g) H (d - sum s_g u_g)^T solve A s = b,
//   A_gh = u_g H u_h^T, b_g = d H u_g^T.
// Then one scale after the other is rounded to what files store, the later ones taking up its error. A row keeps its
// scales where that would not lower its error, or would change a scale's sign. Errors follow,
// differences and residuals do not. Not for one scale per tensor.
void refit_scales(const LaneContext& context, std::span<LaneRows> blocks);

}  // namespace nibble
