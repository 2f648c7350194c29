#include "quant/transposed_config.h"

#include "core/error.h"
#include "core/regex.h"
#include "core/text.h"

namespace nibble {
namespace {

[[noreturn]] void corrupt(const std::string& message) { throw Error(ErrorKind::kCorrupt, message); }
[[noreturn]] void unsupported(const std::string& message) { throw Error(ErrorKind::kUnsupported, message); }

std::string method_of(const Json& json) {
  // GPTQModel also writes "method"; the files of AutoGPTQ that predate both are GPTQ's.
  for (const char* key : {"quant_method", "method"})
    if (const auto method = find_string(json, key)) return lower(*method);
  return "gptq";
}

int parse_bits(const Json& json, std::string_view key) {
  const size_t bits = get_size(json, key);
  if (bits < 2 || bits > 8) unsupported(cat("'", key, "' is ", bits, "; nibble reads 2 to 8"));
  return static_cast<int>(bits);
}

size_t parse_group(const Json& json, std::string_view key) {
  const double group = get_number(json, key);
  if (!(group >= -1 && group <= 0x1p31) || group != static_cast<double>(static_cast<long long>(group)))
    corrupt(cat("'", key, "' is ", group));
  return group <= 0 ? QuantSpec::kWholeRow : static_cast<size_t>(group);
}

TransposedException parse_exception(std::string pattern, const Json& change) {
  TransposedException exception{std::move(pattern)};
  if (!change.is_object()) corrupt("should be an object");
  if (find(change, "bits") != nullptr) {
    const size_t bits = get_size(change, "bits");
    if (bits >= 16)
      exception.quantized = false;
    else
      exception.bits = parse_bits(change, "bits");
  }
  if (find(change, "group_size") != nullptr) exception.group = parse_group(change, "group_size");
  exception.symmetric = find_bool(change, "sym");
  return exception;
}

// Names of modules are patterns too: their dots match themselves.
void check_pattern(const std::string& pattern) {
  try {
    const Regex compiled(pattern);
  } catch (const Error& error) {
    corrupt(error.what());
  }
}

void parse_exceptions(const OrderedJson& json, std::string_view key, TransposedConfig& config) {
  const auto found = json.find(std::string(key));
  if (found == json.end() || found->is_null()) return;
  if (!found->is_object()) corrupt(cat("'", key, "' should be an object"));
  for (const auto& [name, change] : found->items())
    with_context([&, &name = name] { return cat("'", key, "' \"", name, "\""); },
                 [&, &name = name, &change = change] {
                   const bool left_out = name.starts_with("-:");
                   TransposedException exception =
                       parse_exception(name.starts_with("+:") || left_out ? name.substr(2) : name, Json(change));
                   if (left_out) exception.quantized = false;
                   check_pattern(exception.pattern);
                   config.exceptions.push_back(std::move(exception));
                 });
}

TransposedLayout gptq_layout(const Json& json) {
  // "checkpoint_format" is the older name of "format".
  for (const char* key : {"checkpoint_format", "format"}) {
    const auto format = find_string(json, key);
    if (!format) continue;
    if (*format == "gptq") return TransposedLayout::kGptqV1;
    if (*format == "gptq_v2") return TransposedLayout::kGptqV2;
    unsupported(cat("'", key, "' \"", *format, "\"; nibble reads gptq and gptq_v2"));
  }
  return TransposedLayout::kGptqV1;
}

TransposedLayout awq_layout(const Json& json) {
  for (const char* key : {"version", "format"})
    if (const auto version = find_string(json, key); version && lower(*version) != "gemm")
      unsupported(cat("'", key, "' \"", *version, "\"; nibble reads gemm"));
  return TransposedLayout::kAwq;
}

TransposedLayout auto_round_layout(const Json& json) {
  if (const auto type = find_string(json, "data_type"); type && *type != "int")
    unsupported(cat("'data_type' \"", *type, "\"; nibble reads int"));
  if (const auto bits = find_size(json, "act_bits"); bits && *bits < 16)
    unsupported(cat("'act_bits' ", *bits, "; nibble reads such models with quantized weights only"));
  const std::string packing = find_string(json, "packing_format").value_or("auto_round:auto_gptq");
  if (packing == "auto_round:auto_gptq") return TransposedLayout::kGptqV1;
  if (packing == "auto_round" || packing == "auto_round:gptqmodel") return TransposedLayout::kGptqV2;
  if (packing == "auto_round:auto_awq") return TransposedLayout::kAwq;
  unsupported(cat("'packing_format' \"", packing,
                  "\"; nibble reads auto_round:auto_gptq, auto_round:gptqmodel and auto_round:auto_awq"));
}

}  // namespace

TransposedFormat TransposedConfig::format_of(std::string_view module) const {
  TransposedFormat format = linears;
  for (const TransposedException& exception : exceptions) {
    if (exception.pattern != module && !Regex(exception.pattern).matches_prefix(module)) continue;
    if (!exception.quantized) continue;  // it is stored quantized all the same
    format.bits = exception.bits.value_or(format.bits);
    format.group = exception.group.value_or(format.group);
    format.symmetric = exception.symmetric.value_or(format.symmetric);
    break;
  }
  return format;
}

TransposedConfig parse_transposed_config(const OrderedJson& quantization_config) {
  return with_context([] { return "quantization_config"; },
                      [&] {
                        const Json json(quantization_config);
                        if (!json.is_object()) corrupt("it should be an object");
                        const std::string method = method_of(json);
                        TransposedConfig config;
                        if (method == "gptq")
                          config.linears.layout = gptq_layout(json);
                        else if (method == "awq")
                          config.linears.layout = awq_layout(json);
                        else if (method == "auto-round")
                          config.linears.layout = auto_round_layout(json);
                        else
                          unsupported(cat("'quant_method' \"", method, "\"; expected gptq, awq or auto-round"));
                        if (const auto type = find_string(json, "pack_dtype"); type && *type != "int32")
                          unsupported(cat("'pack_dtype' \"", *type, "\"; nibble reads int32"));
                        const bool awq = config.linears.layout == TransposedLayout::kAwq;
                        // AutoAWQ's own files say w_bit and q_group_size.
                        config.linears.bits = parse_bits(json, find(json, "bits") == nullptr && awq ? "w_bit" : "bits");
                        const char* group = find(json, "group_size") == nullptr && awq ? "q_group_size" : "group_size";
                        config.linears.group =
                            find(json, group) == nullptr ? QuantSpec::kWholeRow : parse_group(json, group);
                        // AWQ's writers always store zero points; GPTQ's config says whether they mean anything.
                        config.linears.symmetric = awq || find_bool(json, "sym").value_or(true);
                        config.act_order = find_bool(json, "desc_act").value_or(false);
                        config.lm_head = find_bool(json, "lm_head").value_or(false);
                        parse_exceptions(quantization_config, "dynamic", config);
                        parse_exceptions(quantization_config, "extra_config", config);
                        if (const Json* kept = find(json, "modules_to_not_convert")) {
                          if (!kept->is_array()) corrupt("'modules_to_not_convert' should be an array of strings");
                          for (const Json& name : *kept) {
                            if (!name.is_string()) corrupt("'modules_to_not_convert' should be an array of strings");
                            config.kept.push_back(name.get<std::string>());
                          }
                        }
                        return config;
                      });
}

OrderedJson to_json(const TransposedConfig& config) {
  const auto group_json = [](size_t group) {
    return group == QuantSpec::kWholeRow ? -1 : static_cast<long long>(group);
  };
  OrderedJson json;
  if (config.linears.layout == TransposedLayout::kAwq) {
    json["quant_method"] = "awq";
    json["version"] = "gemm";
    json["bits"] = config.linears.bits;
    json["group_size"] = group_json(config.linears.group);
    json["zero_point"] = true;
    json["modules_to_not_convert"] = config.kept.empty() ? OrderedJson(nullptr) : OrderedJson(config.kept);
    return json;
  }
  const bool v2 = config.linears.layout == TransposedLayout::kGptqV2;
  json["quant_method"] = "gptq";
  json["bits"] = config.linears.bits;
  json["group_size"] = group_json(config.linears.group);
  json["desc_act"] = config.act_order;
  json["sym"] = config.linears.symmetric;
  json["lm_head"] = config.lm_head;
  json["checkpoint_format"] = json["format"] = v2 ? "gptq_v2" : "gptq";
  json["pack_dtype"] = "int32";
  if (!config.exceptions.empty()) {
    OrderedJson& dynamic = json["dynamic"] = OrderedJson::object();
    for (const TransposedException& exception : config.exceptions) {
      OrderedJson change = OrderedJson::object();
      if (exception.bits) change["bits"] = *exception.bits;
      if (exception.group) change["group_size"] = group_json(*exception.group);
      if (exception.symmetric) change["sym"] = *exception.symmetric;
      dynamic[cat(exception.quantized ? "+:" : "-:", exception.pattern)] = std::move(change);
    }
  }
  json["meta"] = {{"quantizer", {"nibble"}}};
  return json;
}

}  // namespace nibble
