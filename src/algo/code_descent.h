#pragma once
#include <vector>

#include "algo/lane_rows.h"

namespace nibble {

// Coordinate descent on the codes of rounded rows: column after column, each code becomes the one of least error while
// all others, those before and behind, stay (Behdin et al. 2023, arXiv 2309.01885). The error is that with the damping:
// |d L^T|^2. A sweep costs as much as rounding twice.
class CodeDescent {
 public:
  explicit CodeDescent(const LaneContext& context);
  // One sweep. Differences, residuals and codes are up to date before and after; errors are not.
  void sweep(LaneRows& rows) const;

 private:
  const LaneContext& context_;
  std::vector<float> blocks_;  // [cols / kLaneBlock, kLaneBlock, kLaneBlock]: L^T L's diagonal blocks, lower triangles
};

}  // namespace nibble
