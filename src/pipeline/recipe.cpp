#include "pipeline/recipe.h"

#include <algorithm>
#include <functional>
#include <map>

#include "core/text.h"
#include "pipeline/torchchat.h"

namespace nibble {
namespace {

std::string text_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_integer()) return value.dump();
  throw Error(ErrorKind::kUsage, cat("should be a text, found ", value.dump()));
}

long long integer_of(const Json& value) {
  if (!value.is_number_integer()) throw Error(ErrorKind::kUsage, cat("should be an integer, found ", value.dump()));
  return value.is_number_unsigned() && value.get<uint64_t>() > (uint64_t{1} << 62) ? int64_t{1} << 62
                                                                                   : value.get<int64_t>();
}

size_t count_of(const Json& value) {
  const long long count = integer_of(value);
  if (count < 0) throw Error(ErrorKind::kUsage, cat("should not be negative, found ", count));
  return static_cast<size_t>(count);
}

bool flag_of(const Json& value) {
  if (!value.is_boolean()) throw Error(ErrorKind::kUsage, cat("should be true or false, found ", value.dump()));
  return value.get<bool>();
}

std::vector<std::string> texts_of(const Json& value) {
  if (!value.is_array()) return {text_of(value)};
  std::vector<std::string> texts;
  for (const Json& item : value) texts.push_back(text_of(item));
  return texts;
}

void apply_settings(const Json& value, QuantizeRequest& request) {
  if (!value.is_object()) {
    for (const std::string& text : texts_of(value)) parse_setting(text, request);
    return;
  }
  for (const auto& [key, number] : value.items()) {
    if (!number.is_number())
      throw Error(ErrorKind::kUsage, cat("'", key, "' should be a number, found ", number.dump()));
    parse_setting(cat(key, "=", number.dump()), request);
  }
}

using Apply = std::function<void(const Json&, QuantizeRequest&)>;

const std::map<std::string, Apply, std::less<>>& keys() {
  static const std::map<std::string, Apply, std::less<>> table = {
      {"scheme", [](const Json& v, QuantizeRequest& r) { r.scheme = text_of(v); }},
      {"bits",
       [](const Json& v, QuantizeRequest& r) {
         const long long bits = integer_of(v);
         if (bits < 1 || bits > 8) throw Error(ErrorKind::kUsage, cat(bits, " bits; expected 1 to 8"));
         r.change.bits = static_cast<int>(bits);
       }},
      {"group-size", [](const Json& v, QuantizeRequest& r) { r.change.group = parse_group(cat(integer_of(v))); }},
      {"granularity", [](const Json& v, QuantizeRequest& r) { apply_granularity(text_of(v), r.change); }},
      {"sym", [](const Json& v, QuantizeRequest& r) { r.change.symmetric = flag_of(v); }},
      {"asym", [](const Json& v, QuantizeRequest& r) { r.change.symmetric = !flag_of(v); }},
      {"full-range", [](const Json& v, QuantizeRequest& r) { r.change.full_range = flag_of(v); }},
      {"grid", [](const Json& v, QuantizeRequest& r) { r.change.grid = parse_grid(text_of(v)); }},
      {"lm-head", [](const Json& v, QuantizeRequest& r) { r.lm_head = parse_table(text_of(v)); }},
      {"embedding", [](const Json& v, QuantizeRequest& r) { r.embedding = parse_table(text_of(v)); }},
      {"skip", [](const Json& v, QuantizeRequest& r) { r.skip = texts_of(v); }},
      {"rule",
       [](const Json& v, QuantizeRequest& r) {
         r.rules.clear();
         for (const std::string& text : texts_of(v)) r.rules.push_back(parse_rule(text));
       }},
      {"act", [](const Json& v, QuantizeRequest& r) { r.change.act = parse_activation_mode(text_of(v)); }},
      {"act-bits",
       [](const Json& v, QuantizeRequest& r) {
         const long long bits = integer_of(v);
         if (bits < 2 || bits > 8) throw Error(ErrorKind::kUsage, cat(bits, " bits; expected 2 to 8"));
         r.change.act_bits = static_cast<int>(bits);
       }},
      {"act-observer", [](const Json& v, QuantizeRequest& r) { r.observer = parse_observer(text_of(v)); }},
      {"dynamic-ranges", [](const Json& v, QuantizeRequest& r) { r.tensor_ranges = parse_dynamic_ranges(text_of(v)); }},
      {"accuracy-level",
       [](const Json& v, QuantizeRequest& r) {
         const long long level = integer_of(v);
         if (level < 0 || level > 4) throw Error(ErrorKind::kUsage, cat("level ", level, "; expected 0 to 4"));
         r.accuracy_level = static_cast<int>(level);
       }},
      {"ort", [](const Json& v, QuantizeRequest& r) { r.ort = text_of(v); }},
      {"kv-cache-scheme", [](const Json& v, QuantizeRequest& r) { r.fp8_cache = parse_cache_scheme(text_of(v)); }},
      {"algorithm", [](const Json& v, QuantizeRequest& r) { r.algorithm = text_of(v); }},
      {"set", apply_settings},
      {"calib", [](const Json& v, QuantizeRequest& r) { r.calibration.from = text_of(v); }},
      {"smoothquant",
       [](const Json& v, QuantizeRequest& r) {
         r.smoothquant = parse_smoothquant(v.is_number() ? v.dump() : text_of(v));
       }},
      {"effort", [](const Json& v, QuantizeRequest& r) { r.effort = text_of(v); }},
      {"true-sequential", [](const Json& v, QuantizeRequest& r) { r.true_sequential = flag_of(v); }},
      {"compute", [](const Json& v, QuantizeRequest& r) { r.bf16 = parse_calibration_compute(text_of(v)); }},
      {"memory", [](const Json& v, QuantizeRequest& r) { r.memory = parse_bytes(text_of(v)); }},
      {"samples", [](const Json& v, QuantizeRequest& r) { r.calibration.samples = count_of(v); }},
      {"seqlen", [](const Json& v, QuantizeRequest& r) { r.calibration.seqlen = count_of(v); }},
      {"seed", [](const Json& v, QuantizeRequest& r) { r.calibration.seed = count_of(v); }},
      {"calib-bos", [](const Json& v, QuantizeRequest& r) { r.calibration.bos = parse_bos_choice(text_of(v)); }},
      {"quant",
       [](const Json& v, QuantizeRequest& r) {
         if (v.is_string())
           apply_torchchat(v.get<std::string>(), r);
         else
           apply_torchchat_json(v, r);
       }},
      {"dtype", [](const Json& v, QuantizeRequest& r) { r.dtype = parse_float_dtype(text_of(v)); }},
      {"no-last-matmul", [](const Json& v, QuantizeRequest& r) { r.last_matmul = !flag_of(v); }},
      {"no-fallback", [](const Json& v, QuantizeRequest& r) { r.allow_fallback = !flag_of(v); }},
  };
  return table;
}

}  // namespace

void apply_granularity(std::string_view text, SpecChange& change) {
  const std::string name = lower(text);
  if (name != "tensor" && name != "channel" && name != "group")
    throw Error(ErrorKind::kUsage, cat("granularity '", text, "'; known are tensor, channel, group"));
  if (name == "tensor") {
    if (change.group && *change.group != QuantSpec::kWholeRow)
      throw Error(
          ErrorKind::kUsage,
          cat("granularity tensor means one scale for the whole matrix; it cannot have groups of ", *change.group));
    change.per_tensor = true;
  } else if (name == "channel") {
    if (change.group && *change.group != QuantSpec::kWholeRow)
      throw Error(ErrorKind::kUsage,
                  cat("granularity channel means one scale for each row; it cannot have groups of ", *change.group));
    change.group = QuantSpec::kWholeRow;
  }
}

void apply_recipe(const Json& recipe, QuantizeRequest& request) {
  if (!recipe.is_object())
    throw Error(ErrorKind::kUsage,
                cat("a recipe is a JSON object like {\"scheme\": \"W4A16\"}, found ", recipe.type_name()));
  // A dictionary describes the linears as a whole: what stands beside it refines it, whatever the order of the keys.
  std::vector<std::pair<std::string, const Json*>> items;
  for (const auto& [key, value] : recipe.items()) {
    std::string name = key;
    std::replace(name.begin(), name.end(), '_', '-');
    if (name == "quantize") name = "quant";
    if (!keys().contains(name)) {
      std::vector<std::string> known;
      for (const auto& entry : keys()) known.push_back(entry.first);
      throw Error(ErrorKind::kUsage, cat("unknown key '", key, "'; known are ", join(known, ", ")));
    }
    items.emplace_back(std::move(name), &value);
  }
  std::stable_partition(items.begin(), items.end(), [](const auto& item) { return item.first == "quant"; });
  // "granularity" looks at the group size: it comes after it.
  std::stable_partition(items.begin(), items.end(), [](const auto& item) { return item.first != "granularity"; });
  for (const auto& item : items)
    with_context([&] { return cat("'", item.first, "'"); }, [&] { keys().at(item.first)(*item.second, request); });
}

void apply_recipe_file(const std::filesystem::path& path, QuantizeRequest& request) {
  const Json recipe = read_json_file(path);
  with_context([&] { return path.string(); }, [&] { apply_recipe(recipe, request); });
}

}  // namespace nibble
