#include "pipeline/plan_spec.h"

#include "core/error.h"
#include "core/text.h"
#include "pipeline/presets.h"

namespace nibble {
namespace {

constexpr size_t kSmallestFallback = 16;

void apply_change(const SpecChange& change, SpecChoice& choice) {
  QuantSpec& spec = choice.spec;
  if (change.grid && *change.grid != spec.grid) {
    spec.grid = *change.grid;
    if (spec.grid != Grid::kInt) {
      spec.bits = spec.grid == Grid::kFP8 ? 8 : 4;
      spec.symmetric = true;
      spec.full_range = false;
      if (!choice.group_given) spec.group = spec.grid == Grid::kFP8 ? QuantSpec::kWholeRow : 64;
    }
  }
  if (change.bits) spec.bits = *change.bits;
  if (change.symmetric) {
    spec.symmetric = *change.symmetric;
    if (!spec.symmetric) spec.full_range = false;
  }
  if (change.full_range) spec.full_range = *change.full_range;
  if (change.group) {
    spec.group = *change.group;
    spec.per_tensor = false;
    choice.group_given = true;
  }
  if (change.per_tensor) {
    spec.per_tensor = *change.per_tensor;
    if (spec.per_tensor) spec.group = QuantSpec::kWholeRow;
  }
}

// After what a scheme or a dictionary says.
void apply_activations(const SpecChange& change, SpecChoice& choice) {
  ActivationSpec& activations = choice.activations;
  if (change.act && *change.act == ActivationSpec::Mode::kNone) activations = {};
  if (change.act && *change.act != ActivationSpec::Mode::kNone) {
    if (activations.mode == ActivationSpec::Mode::kNone && choice.spec.grid == Grid::kFP8)
      activations.grid = Grid::kFP8;
    activations.mode = *change.act;
  }
  if (!change.act_bits) return;
  if (activations.mode == ActivationSpec::Mode::kNone)
    throw Error(ErrorKind::kUsage, "--act-bits is for quantized activations: add --act dynamic or --act static");
  if (activations.grid != Grid::kInt && *change.act_bits != 8)
    throw Error(ErrorKind::kUsage, cat("--act-bits ", *change.act_bits, ": ", name(activations.grid), " has 8 bits"));
  activations.bits = *change.act_bits;
}

// Largest power of two that divides `cols`.
size_t power_of_two_divisor(size_t cols) { return cols & (~cols + 1); }

}  // namespace

std::optional<SpecChoice> linear_choice(const QuantizeRequest& request, DType scale_dtype) {
  if (!request.scheme && request.change.empty()) return std::nullopt;
  SpecChoice choice;
  choice.reason = "flags";
  if (request.scheme) {
    const Preset preset = find_preset(*request.scheme);
    choice.spec = preset.spec;
    choice.activations = preset.activations;
    choice.reason = cat("scheme ", preset.name);
  }
  choice.spec.scale_dtype = scale_dtype;
  apply_change(request.change, choice);
  if (request.activations) choice.activations = *request.activations;
  apply_activations(request.change, choice);
  choice.spec.validate();
  return choice;
}

SpecChoice table_choice(const TableChoice& table, std::string_view flag, DType scale_dtype) {
  SpecChoice choice;
  choice.spec.bits = table.bits;
  choice.spec.group = table.group.value_or(table.bits == 8 ? QuantSpec::kWholeRow : 32);
  choice.spec.scale_dtype = scale_dtype;
  choice.group_given = table.group.has_value();
  choice.reason = flag;
  choice.spec.validate();
  return choice;
}

SpecChoice apply_rule(const Rule& rule, const std::optional<SpecChoice>& base, DType scale_dtype) {
  SpecChoice choice = base.value_or(SpecChoice{});
  if (!base) choice.spec.scale_dtype = scale_dtype;
  choice.reason = cat("rule '", rule.text, "'");
  with_context([&] { return choice.reason; },
               [&] {
                 apply_change(rule.change, choice);
                 apply_activations(rule.change, choice);
                 choice.spec.validate();
               });
  return choice;
}

FittedGroup fit_group(const SpecChoice& choice, size_t cols, bool allow_fallback) {
  QuantSpec spec = choice.spec;
  if (spec.per_tensor || spec.group == QuantSpec::kWholeRow || cols == 0 || cols % spec.group == 0) return {spec, ""};
  if (choice.group_given) {
    spec.group = std::min(spec.group, cols);
    return {spec, ""};
  }
  size_t group = power_of_two_divisor(cols);
  while (group > spec.group) group /= 2;
  const bool fits = group >= kSmallestFallback;
  if (!allow_fallback)
    throw Error(ErrorKind::kUsage,
                cat("group ", spec.group, " does not divide ", cols, " columns; ",
                    fits ? cat("try --group-size ", group) : "try --group-size 0 (one group per row) or --skip",
                    ", or leave out --no-fallback"));
  if (!fits)
    return {std::nullopt, cat("kept: neither ", spec.group, " nor a smaller power of two from ", kSmallestFallback,
                              " up divides ", cols, " columns")};
  FittedGroup fitted{spec, cat("group ", spec.group, " does not divide ", cols, " columns: ", group)};
  fitted.spec->group = group;
  return fitted;
}

}  // namespace nibble
