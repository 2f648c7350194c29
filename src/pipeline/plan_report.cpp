// How a plan is shown: as JSON and as a table.
#include <algorithm>

#include "core/text.h"
#include "pipeline/plan.h"

namespace nibble {
namespace {

std::string describe(const ActivationSpec& activations) {
  if (activations.mode == ActivationSpec::Mode::kNone) return "";
  const std::string_view range = activations.mode == ActivationSpec::Mode::kStatic ? " static" : " per token";
  if (activations.grid != Grid::kInt) return cat(name(activations.grid), range);
  return cat("int", activations.bits, activations.symmetric ? " sym" : " asym", range);
}

std::string scheme(const PlannedTensor& planned) {
  if (!planned.spec) return lower(info(planned.dtype).name);
  const std::string activations = describe(planned.activations);
  return cat(describe(*planned.spec), activations.empty() ? "" : " | ", activations);
}

std::string_view action_name(PlannedTensor::Action action) {
  switch (action) {
    case PlannedTensor::Action::kQuantize:
      return "quantize";
    case PlannedTensor::Action::kMoveCodes:
    case PlannedTensor::Action::kMoveBlocks:
      return "move";
    case PlannedTensor::Action::kFloat:
      break;
  }
  return "keep";
}

double bits_of(const PlannedTensor& planned) {
  const size_t count = element_count(planned.source->shape());
  return count == 0 ? 0 : 8.0 * static_cast<double>(planned.bytes_after) / static_cast<double>(count);
}

// One line of the table, for one tensor or for the same tensor of many blocks.
struct Line {
  std::string name;  // block numbers replaced by "*"
  std::string scheme, note;
  double bits = 0;
  size_t count = 0, before = 0, after = 0;
};

// "model.layers.12.mlp" -> "model.layers.*.mlp"
std::string without_numbers(std::string_view name) {
  std::vector<std::string> parts = split(name, '.');
  for (std::string& part : parts)
    if (!part.empty() && part.find_first_not_of("0123456789") == std::string::npos) part = "*";
  return join(parts, ".");
}

std::string padded(std::string text, size_t width, bool right = false) {
  const std::string space(width > text.size() ? width - text.size() : 0, ' ');
  return right ? space + text : text + space;
}

}  // namespace

OrderedJson to_json(const QuantizePlan& plan) {
  OrderedJson tensors = OrderedJson::array();
  for (const PlannedTensor& planned : plan.tensors) {
    OrderedJson tensor = {{"name", planned.module()},
                          {"role", name(planned.role)},
                          {"action", action_name(planned.action)},
                          {"scheme", scheme(planned)}};
    if (planned.spec) {
      tensor["bits"] = planned.spec->bits;
      tensor["group_size"] = planned.spec->group;
      tensor["granularity"] = planned.spec->per_tensor                      ? "tensor"
                              : planned.spec->group == QuantSpec::kWholeRow ? "channel"
                                                                            : "group";
      tensor["symmetric"] = planned.spec->symmetric;
      tensor["grid"] = name(planned.spec->grid);
      tensor["activations"] = describe(planned.activations);
      tensor["algorithm"] = planned.algorithm;
    } else {
      tensor["dtype"] = info(planned.dtype).name;
    }
    tensor["reason"] = planned.reason;
    tensor["fallback"] = planned.fallback;
    tensor["source_type"] = planned.source->type_name();
    tensor["requantized"] = planned.action == PlannedTensor::Action::kQuantize && planned.source->spec().has_value();
    tensor["bytes_before"] = planned.bytes_before;
    tensor["bytes_after"] = planned.bytes_after;
    tensor["bpw"] = bits_of(planned);
    tensors.push_back(std::move(tensor));
  }
  OrderedJson json = {{"dtype", float_dtype_name(plan.dtype)},
                      {"tied_embeddings", plan.tied_embeddings},
                      {"parameters", plan.parameters},
                      {"bytes_before", plan.bytes_before},
                      {"bytes_after", plan.bytes_after},
                      {"bpw", plan.bits_per_weight()},
                      {"predicted_peak_bytes", plan.predicted_peak_bytes},
                      {"warnings", plan.warnings},
                      {"tensors", std::move(tensors)}};
  if (!plan.cached.empty()) json["kv_cache_scheme"] = "fp8";
  return json;
}

std::string plan_table(const QuantizePlan& plan) {
  std::vector<Line> lines;
  for (const PlannedTensor& planned : plan.tensors) {
    const std::string algorithm = planned.algorithm.empty() ? "" : planned.algorithm + ", ";
    Line line{without_numbers(planned.module()),
              scheme(planned),
              algorithm + planned.reason,
              bits_of(planned),
              1,
              planned.bytes_before,
              planned.bytes_after};
    if (!planned.fallback.empty()) line.note += "; " + planned.fallback;
    const auto same = std::find_if(lines.begin(), lines.end(), [&](const Line& other) {
      return other.name == line.name && other.scheme == line.scheme && other.note == line.note &&
             other.bits == line.bits;
    });
    if (same == lines.end()) {
      lines.push_back(std::move(line));
    } else {
      ++same->count;
      same->before += line.before;
      same->after += line.after;
    }
  }
  size_t name_width = 6, scheme_width = 6;
  for (const Line& line : lines) {
    name_width = std::max(name_width, line.name.size());
    scheme_width = std::max(scheme_width, line.scheme.size());
  }
  std::string out;
  const auto row = [&](const std::string& name, const std::string& count, const std::string& scheme_text,
                       const std::string& bits, const std::string& before, const std::string& after,
                       const std::string& note) {
    std::string line = cat(padded(name, name_width), padded(count, 6, true), "  ", padded(scheme_text, scheme_width),
                           padded(bits, 7, true), padded(before, 11, true), padded(after, 11, true), "  ", note);
    while (line.ends_with(' ')) line.pop_back();
    out += line + "\n";
  };
  row("tensor", "count", "scheme", "bpw", "before", "after", "why");
  for (const Line& line : lines)
    row(line.name, cat(line.count), line.scheme, format_fixed(line.bits, 2), format_bytes(line.before),
        format_bytes(line.after), line.note);
  row("total", cat(plan.tensors.size()), "", format_fixed(plan.bits_per_weight(), 2), format_bytes(plan.bytes_before),
      format_bytes(plan.bytes_after), cat("predicted peak memory ", format_bytes(plan.predicted_peak_bytes)));
  return out;
}

}  // namespace nibble
