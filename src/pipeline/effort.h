#pragma once
#include <string_view>
#include <vector>

#include "pipeline/quantize_request.h"

namespace nibble {

// "fast", "balanced", "best".
std::vector<std::string_view> effort_names();
// Fills in the algorithm, its options and the calibration of a level of effort where the request does not say itself.
// What they reach and cost on the demo model is in docs/quantize.md. Throws Error(kUsage) listing the known levels.
void apply_effort(std::string_view name, QuantizeRequest& request);

}  // namespace nibble
