#pragma once
#include "model/model.h"
#include "pipeline/quantize_request.h"

namespace nibble {

// What Model::load() needs to quantize a model's weights while it loads them, exactly as `quantize` would have written
// them. `source` must outlive the loading. `warnings`, when given, receives the plan's (fallbacks, patterns without a
// match). Throws Error(kUsage) for a request that cannot be met.
LoadOptions quantize_on_load(const Source& source, const QuantizeRequest& request,
                             std::vector<std::string>* warnings = nullptr);

}  // namespace nibble
