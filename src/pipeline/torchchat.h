#pragma once
#include <string_view>

#include "core/json.h"
#include "pipeline/quantize_request.h"

namespace nibble {

// torchchat's quantization dictionaries: {"linear:int4": {"groupsize": 32}, "embedding": {"bitwidth": 8, "groupsize":
// 0}}. Python spelling is accepted too (single quotes, True/False/None). Throws Error(kUsage) naming the unknown key.
void apply_torchchat(std::string_view text, QuantizeRequest& request);
void apply_torchchat_json(const Json& dictionary, QuantizeRequest& request);

}  // namespace nibble
