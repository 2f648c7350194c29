#pragma once
#include <optional>
#include <string>

#include "pipeline/quantize_request.h"

namespace nibble {

// How some tensors would be quantized before their own size is known.
struct SpecChoice {
  QuantSpec spec;
  ActivationSpec activations;
  bool group_given = false;  // somebody asked for this very group: it is used even where it does not divide
  std::string reason;        // "scheme W4A16", "--bits 4"
};

// What scheme and flags say about the blocks' linears; nothing when they say nothing. Throws Error(kUsage).
std::optional<SpecChoice> linear_choice(const QuantizeRequest& request, DType scale_dtype);
// The same for an embedding or lm_head option that is not `keep`.
SpecChoice table_choice(const TableChoice& table, std::string_view flag, DType scale_dtype);
// A rule on top of a choice (or of the defaults when there is none).
SpecChoice apply_rule(const Rule& rule, const std::optional<SpecChoice>& base, DType scale_dtype);

struct FittedGroup {
  std::optional<QuantSpec> spec;  // nothing: no group fits, keep the tensor
  std::string fallback;           // what was changed, or empty
};
// The choice for a row of `cols` columns. A group that nobody asked for and that does not divide is replaced by the
// largest power of two from 16 up that does; with `allow_fallback` off that is Error(kUsage) naming that group. A group
// beyond the row is the row.
FittedGroup fit_group(const SpecChoice& choice, size_t cols, bool allow_fallback);

}  // namespace nibble
