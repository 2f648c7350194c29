#pragma once
#include "model/model.h"
#include "pipeline/quantize_request.h"

namespace nibble {

// What Model::load() needs to quantize a model's weights while it loads them, exactly as `quantize` would have written
// them. `source` must outlive the loading. `warnings`, when given, receives the plan's (fallbacks, patterns without a
// match). Algorithms that need calibration run here and now, in a temporary folder. Throws Error(kUsage) for a request
// that cannot be met: one that moves factors into norms changes more than the weights.
LoadOptions quantize_on_load(const Source& source, const QuantizeRequest& request,
                             std::vector<std::string>* warnings = nullptr, Progress& progress = no_progress());

}  // namespace nibble
