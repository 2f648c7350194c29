#pragma once
#include <filesystem>

#include "core/json.h"
#include "pipeline/quantize_request.h"

namespace nibble {

// A recipe is a JSON object whose keys are the long flags of `nibble quantize` without their dashes ("-" or "_"
// inside): scheme, bits, group-size, granularity, sym, asym, full-range, grid, lm-head, embedding, skip, rule,
// algorithm, set, calib, samples, seqlen, seed, calib-bos, quant (= quantize; a torchchat dictionary), dtype,
// no-fallback. `skip` and `rule` take a text or a list of texts; `set` is
// {"rtn.clip": 0.9} or texts like the flag's; unknown keys are refused by name. Values given here are overwritten in
// `request`.
void apply_recipe(const Json& recipe, QuantizeRequest& request);
// Reads it first; errors start with the file's name.
void apply_recipe_file(const std::filesystem::path& path, QuantizeRequest& request);

// "tensor", "channel", "group".
void apply_granularity(std::string_view text, SpecChange& change);

}  // namespace nibble
