#include "quant/compressed_config.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/regex.h"

namespace nibble {
namespace {

constexpr std::string_view kSchemaMethod = "compressed-tensors", kOwnMethod = "nibble";
constexpr std::array<std::string_view, 4> kFormats = {"pack-quantized", "int-quantized", "float-quantized",
                                                      "naive-quantized"};

[[noreturn]] void corrupt(const std::string& message) { throw Error(ErrorKind::kCorrupt, message); }
[[noreturn]] void unsupported(const std::string& message) { throw Error(ErrorKind::kUnsupported, message); }

bool present(const Json& object, std::string_view key) {
  const Json* value = find(object, key);
  return value != nullptr && !(value->is_object() && value->empty());
}

std::vector<std::string> strings(const Json& object, std::string_view key) {
  std::vector<std::string> out;
  const Json* list = find(object, key);
  if (list == nullptr) return out;
  if (!list->is_array()) corrupt(cat("'", key, "' should be an array of strings"));
  for (const Json& item : *list) {
    if (!item.is_string()) corrupt(cat("'", key, "' should be an array of strings"));
    out.push_back(item.get<std::string>());
  }
  return out;
}

void expect_object(const Json& value, std::string_view what) {
  if (!value.is_object()) corrupt(cat(what, " should be an object"));
}

int parse_bits(const Json& args) {
  const size_t bits = find_size(args, "num_bits").value_or(8);
  if (bits < 1 || bits > 8) unsupported(cat("'num_bits' ", bits, "; nibble runs 1 to 8"));
  return static_cast<int>(bits);
}

Grid parse_type(const Json& args, int bits, bool own) {
  const std::string type = find_string(args, "type").value_or("int");
  if (type == "int") return Grid::kInt;
  if (type == "float" && bits == 8) return Grid::kFP8;
  if (own && (type == "nf4" || type == "fp4" || type == "iq4_nl" || type == "fp4_bnb")) return parse_grid(type);
  unsupported(cat("'type' \"", type, "\" with ", bits, " bits"));
}

QuantSpec parse_weights(const Json& args, bool own) {
  expect_object(args, "'weights'");
  QuantSpec spec;
  spec.bits = parse_bits(args);
  spec.grid = parse_type(args, spec.bits, own);
  spec.symmetric = find_bool(args, "symmetric").value_or(true);
  spec.mins = own && find_bool(args, "mins").value_or(false);
  if (const Json* dynamic = find(args, "dynamic"); dynamic != nullptr && *dynamic != Json(false))
    unsupported("weights that are quantized dynamically");

  double group = 0;  // absent
  if (const Json* value = find(args, "group_size")) {
    if (!value->is_number_integer()) corrupt("'group_size' should be an integer");
    group = value->get<double>();
    if (group < -1 || group > 0x1p31) corrupt(cat("'group_size' is ", group));
  }
  // A missing strategy follows from the group size.
  const std::string strategy = find_string(args, "strategy")
                                   .value_or(group > 0     ? "group"
                                             : group == -1 ? "channel"
                                                           : "tensor");
  spec.group = QuantSpec::kWholeRow;
  if (strategy == "group") {
    if (group < 1) corrupt("strategy \"group\" without a positive 'group_size'");
    spec.group = static_cast<size_t>(group);
  } else if (strategy == "tensor") {
    spec.per_tensor = true;
  } else if (strategy != "channel") {
    unsupported(cat("weights with 'strategy' \"", strategy, "\"; nibble runs tensor, channel and group"));
  }
  try {
    spec.validate();
  } catch (const Error& error) {
    corrupt(error.what());
  }
  return spec;
}

ActivationSpec parse_activations(const Json& args) {
  expect_object(args, "'input_activations'");
  ActivationSpec spec;
  spec.bits = parse_bits(args);
  spec.grid = parse_type(args, spec.bits, /*own=*/false);
  spec.symmetric = find_bool(args, "symmetric").value_or(true);
  if (spec.grid == Grid::kFP8 && !spec.symmetric) corrupt("asymmetric FP8 activations");
  const Json* dynamic = find(args, "dynamic");
  const std::string strategy = find_string(args, "strategy").value_or("tensor");
  if (dynamic == nullptr || *dynamic == Json(false)) {
    if (strategy != "tensor")
      unsupported(cat("static activations with 'strategy' \"", strategy, "\"; nibble runs tensor"));
    spec.mode = ActivationSpec::Mode::kStatic;  // each linear's tensors say its scale
    return spec;
  }
  if (*dynamic != Json(true)) unsupported("'dynamic' activations that are only partly so; nibble runs true and false");
  if (strategy != "token")
    unsupported(cat("dynamic activations with 'strategy' \"", strategy, "\"; nibble runs token"));
  spec.mode = ActivationSpec::Mode::kDynamicPerToken;
  return spec;
}

CompressedGroup parse_group(const Json& group, const std::optional<std::string>& format, bool own) {
  expect_object(group, "a config group");
  CompressedGroup out;
  out.targets = strings(group, "targets");
  if (out.targets.empty()) corrupt("'targets' is empty");
  if (!present(group, "weights")) unsupported("a config group without 'weights'");
  if (present(group, "output_activations")) unsupported("'output_activations'");
  out.weights = with_context([] { return "weights"; }, [&] { return parse_weights(get(group, "weights"), own); });
  if (present(group, "input_activations"))
    out.activations = with_context([] { return "input_activations"; },
                                   [&] { return parse_activations(get(group, "input_activations")); });
  out.format = find_string(group, "format").value_or(format.value_or(""));
  if (std::find(kFormats.begin(), kFormats.end(), out.format) == kFormats.end())
    unsupported(cat("'format' \"", out.format, "\"; nibble reads ", kFormats[0], ", ", kFormats[1], ", ", kFormats[2],
                    ", ", kFormats[3]));
  if (out.weights.grid == Grid::kInt && out.weights.bits == 1 && out.weights.symmetric && !own)
    unsupported("1-bit symmetric weights, whose codes mean -1 and 0 in compressed-tensors");
  return out;
}

bool is_pattern(std::string_view target) { return target.substr(0, 3) == "re:"; }

// Python's re.match.
bool matches(std::string_view pattern, std::string_view module) {
  return Regex(pattern.substr(3)).matches_prefix(module);
}

void check_patterns(const std::vector<std::string>& targets) {
  for (const std::string& target : targets) {
    if (!is_pattern(target)) continue;
    try {
      const Regex compiled(target.substr(3));
    } catch (const Error& error) {
      corrupt(cat("\"", target, "\": ", error.what()));
    }
  }
}

OrderedJson to_json(const QuantSpec& spec) {
  OrderedJson json;
  json["num_bits"] = spec.bits;
  json["type"] = spec.grid == Grid::kFP8 ? "float" : std::string(name(spec.grid));
  json["symmetric"] = spec.symmetric;
  const bool grouped = !spec.per_tensor && spec.group != QuantSpec::kWholeRow;
  json["group_size"] = grouped ? OrderedJson(spec.group) : OrderedJson(nullptr);
  json["strategy"] = spec.per_tensor ? "tensor" : grouped ? "group" : "channel";
  json["dynamic"] = false;
  json["actorder"] = nullptr;
  if (spec.mins) json["mins"] = true;
  return json;
}

OrderedJson to_json(const ActivationSpec& spec) {
  if (spec.mode == ActivationSpec::Mode::kNone) return nullptr;
  OrderedJson json;
  json["num_bits"] = spec.bits;
  json["type"] = spec.grid == Grid::kFP8 ? "float" : "int";
  json["symmetric"] = spec.symmetric;
  json["group_size"] = nullptr;
  const bool fixed = spec.mode == ActivationSpec::Mode::kStatic;
  json["strategy"] = fixed ? "tensor" : "token";
  json["dynamic"] = !fixed;
  json["actorder"] = nullptr;
  return json;
}

}  // namespace

const CompressedGroup* CompressedConfig::find(std::string_view module, std::string_view class_name) const {
  for (const std::string& target : ignore)
    if (is_pattern(target) ? matches(target, module) : target == module || target == class_name) return nullptr;
  // Among several patterns the one that sorts first wins, whatever its group.
  const CompressedGroup *by_pattern = nullptr, *by_class = nullptr;
  std::string_view best_pattern;
  for (const CompressedGroup& group : groups)
    for (const std::string& target : group.targets) {
      if (target == module) return &group;
      if (target == class_name && by_class == nullptr) by_class = &group;
      if (is_pattern(target) && (by_pattern == nullptr || target < best_pattern) && matches(target, module)) {
        by_pattern = &group;
        best_pattern = target;
      }
    }
  return by_pattern != nullptr ? by_pattern : by_class;
}

ActivationSpec cache_scheme() {
  ActivationSpec spec;
  spec.mode = ActivationSpec::Mode::kStatic;
  spec.grid = Grid::kFP8;
  return spec;
}

CompressedConfig parse_compressed_config(const Json& json) {
  return with_context(
      [] { return "quantization_config"; },
      [&] {
        expect_object(json, "it");
        CompressedConfig config;
        const std::string method = get_string(json, "quant_method");
        config.nibble_method = method == kOwnMethod;
        if (!config.nibble_method && method != kSchemaMethod)
          unsupported(cat("'quant_method' \"", method, "\"; nibble reads ", kSchemaMethod, " and ", kOwnMethod));
        if (const auto status = find_string(json, "quantization_status"); status && *status != "compressed")
          unsupported(cat("'quantization_status' \"", *status, "\"; only \"compressed\" checkpoints hold codes"));
        config.kv_cache = present(json, "kv_cache_scheme");
        for (std::string_view key : {"sparsity_config", "transform_config", "moe_sparsity_config"})
          if (present(json, key) && !(key == "sparsity_config" && find_string(get(json, key), "format") == "dense"))
            unsupported(cat("'", key, "'"));
        const auto format = find_string(json, "format");
        const Json& groups = get(json, "config_groups");
        expect_object(groups, "'config_groups'");
        for (const auto& [name, group] : groups.items())
          config.groups.push_back(
              with_context([&, &key = name] { return cat("config_groups.", key); },
                           [&, &value = group] { return parse_group(value, format, config.nibble_method); }));
        config.ignore = strings(json, "ignore");
        check_patterns(config.ignore);
        for (const CompressedGroup& group : config.groups) check_patterns(group.targets);
        return config;
      });
}

OrderedJson to_json(const CompressedConfig& config) {
  OrderedJson json;
  json["quant_method"] = config.nibble_method ? kOwnMethod : kSchemaMethod;
  const bool mixed = std::any_of(config.groups.begin(), config.groups.end(),
                                 [&](const CompressedGroup& group) { return group.format != config.groups[0].format; });
  json["format"] = config.groups.empty() ? "dense" : mixed ? "mixed-precision" : config.groups[0].format;
  json["quantization_status"] = "compressed";
  OrderedJson& groups = json["config_groups"] = OrderedJson::object();
  for (size_t i = 0; i < config.groups.size(); ++i) {
    const CompressedGroup& group = config.groups[i];
    OrderedJson& out = groups[cat("group_", i)];
    out["targets"] = group.targets;
    out["weights"] = to_json(group.weights);
    out["input_activations"] = to_json(group.activations);
    out["output_activations"] = nullptr;
    out["format"] = group.format;
  }
  json["ignore"] = config.ignore;
  json["kv_cache_scheme"] = config.kv_cache ? to_json(cache_scheme()) : nullptr;
  json["global_compression_ratio"] = nullptr;
  return json;
}

}  // namespace nibble
