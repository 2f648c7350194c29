#include "pipeline/block_types.h"

#include "core/error.h"

namespace nibble {
namespace {

DType type_of_bits(int bits, std::string_view where) {
  if (const auto type = gguf_type_of_bits(bits)) return *type;
  throw Error(ErrorKind::kUsage, cat(where, ": GGUF has no type of ", bits, " bits; there are 2, 3, 4, 5, 6 and 8"));
}

}  // namespace

std::optional<DType> BlockTypes::dtype() const {
  if (is_block_type(scheme_.base)) return std::nullopt;
  return scheme_.base;
}

std::optional<DType> BlockTypes::of_table(const TableChoice& table, std::string_view flag) const {
  if (table.keep) return std::nullopt;
  if (table.group)
    throw Error(ErrorKind::kUsage, cat(flag, ": the groups of GGUF's types are fixed; give only the bits"));
  return type_of_bits(table.bits, flag);
}

BlockTypes::Choice BlockTypes::choose(const std::string& tensor, size_t cols, const Rule* rule,
                                      bool allow_fallback) const {
  if (dtype()) return {*dtype(), cat("scheme ", scheme_.name), ""};
  const auto place = find_hf_tensor(*config_.architecture, tensor);
  if (!place) return {DType::kF16, "other", ""};
  const Slot slot = place->rule->slot;
  Choice choice{scheme_.base, cat("scheme ", scheme_.name), ""};
  const bool importance = request_.stats || !request_.calibration.empty();
  choice.type = gguf_mix(scheme_, config_, {slot, place->layer.value_or(0), cols, importance});
  const auto& table = slot == Slot::kEmbedding ? request_.embedding
                      : slot == Slot::kLmHead  ? request_.lm_head
                                               : std::optional<TableChoice>();
  if (table) {
    const std::string_view flag = slot == Slot::kEmbedding ? "--embedding" : "--lm-head";
    choice.type = of_table(*table, flag).value_or(request_.dtype.value_or(DType::kF16));
    choice.reason = flag;
  }
  if (rule && !rule->change.empty()) {
    choice.reason = cat("rule '", rule->text, "'");
    SpecChange change = rule->change;
    change.bits.reset();
    if (!rule->change.bits || !change.empty())
      throw Error(ErrorKind::kUsage, cat(choice.reason, ": with a GGUF type a rule chooses bits= alone"));
    choice.type = type_of_bits(*rule->change.bits, choice.reason);
  }
  const DType fitting = gguf_fitting_type(choice.type, cols);
  if (fitting != choice.type) {
    choice.fallback = cat(info(choice.type).name, " needs rows of a multiple of ", info(choice.type).block,
                          " columns, not ", cols, ": ", info(fitting).name);
    if (!allow_fallback) throw Error(ErrorKind::kUsage, cat(choice.fallback, "; leave out --no-fallback"));
    choice.type = fitting;
  }
  return choice;
}

std::optional<BlockTypes> find_block_types(const QuantizeRequest& request, const ModelConfig& config,
                                           const ExporterEntry* format) {
  const GgufScheme* scheme = request.scheme ? find_gguf_scheme(*request.scheme) : nullptr;
  if (!scheme) return std::nullopt;
  if (format && !format->blocks)
    throw Error(ErrorKind::kUsage, cat("scheme ", scheme->name, " is a GGUF type; add --format gguf"));
  if (!request.change.empty())
    throw Error(ErrorKind::kUsage,
                cat("scheme ", scheme->name, " leaves no choice of bits, groups or grids; use --rule 'REGEX:bits=N'"));
  if (request.activations && request.activations->mode != ActivationSpec::Mode::kNone)
    throw Error(ErrorKind::kUsage, "GGUF has no words for quantized activations");
  return BlockTypes(*scheme, request, config);
}

}  // namespace nibble
