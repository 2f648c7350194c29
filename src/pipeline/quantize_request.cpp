#include "pipeline/quantize_request.h"

#include <charconv>

#include "core/error.h"
#include "core/text.h"

namespace nibble {
namespace {

template <class Number>
std::optional<Number> parse_number(std::string_view text) {
  Number value{};
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

int parse_bits(std::string_view text) {
  const auto bits = parse_number<int>(text);
  if (!bits || *bits < QuantSpec::kMinBits || *bits > QuantSpec::kMaxBits)
    throw Error(ErrorKind::kUsage, cat("'", text, "' bits: expected 1 to 8"));
  return *bits;
}

// One of the comma-separated words of a rule.
void apply_word(std::string_view word, Rule& rule) {
  const size_t equals = word.find('=');
  const std::string key = lower(word.substr(0, equals));
  const std::string_view value = equals == std::string_view::npos ? "" : word.substr(equals + 1);
  if (equals == std::string_view::npos) {
    if (key == "sym" || key == "asym") {
      rule.change.symmetric = key == "sym";
      return;
    }
    if (key == "full-range" || key == "full_range") {
      rule.change.full_range = true;
      return;
    }
  } else if (key == "bits") {
    rule.change.bits = parse_bits(value);
    return;
  } else if (key == "group") {
    rule.change.group = parse_group(value);
    return;
  } else if (key == "grid") {
    rule.change.grid = parse_grid(value);
    return;
  } else if (key == "act") {
    rule.change.act = parse_activation_mode(value);
    return;
  } else if (key == "algo" && !value.empty()) {
    rule.algorithm = value;
    return;
  }
  throw Error(ErrorKind::kUsage,
              cat("unknown word '", word,
                  "'; known are bits=N, group=N, sym, asym, full-range, grid=NAME, algo=NAME, act=NAME"));
}

}  // namespace

size_t parse_group(std::string_view text) {
  const auto group = parse_number<long long>(text);
  if (!group || *group < -1)
    throw Error(ErrorKind::kUsage,
                cat("'", text, "' is not a group size; write a number of columns, or 0 or -1 for one group per row"));
  return *group <= 0 ? QuantSpec::kWholeRow : static_cast<size_t>(*group);
}

Rule parse_rule(std::string_view text) {
  return with_context([&] { return cat("rule '", text, "'"); },
                      [&] {
                        // The pattern may contain colons itself ("(?:a|b)"); the words after it never do.
                        const size_t colon = text.rfind(':');
                        if (colon == std::string_view::npos || colon == 0 || colon + 1 == text.size())
                          throw Error(ErrorKind::kUsage, "expected REGEX:bits=8,group=64,sym,algo=rtn");
                        Rule rule{std::string(text), std::string(text.substr(0, colon)), {}, {}};
                        for (const std::string& word : split(text.substr(colon + 1), ',')) apply_word(word, rule);
                        return rule;
                      });
}

TableChoice parse_table(std::string_view text) {
  if (lower(text) == "keep") return {};
  try {
    const size_t colon = text.find(':');
    TableChoice choice;
    choice.keep = false;
    choice.bits = parse_bits(text.substr(0, colon));
    if (colon != std::string_view::npos) choice.group = parse_group(text.substr(colon + 1));
    return choice;
  } catch (const Error& error) {
    throw Error(ErrorKind::kUsage, cat("'", text, "' is neither BITS[:GROUP] nor keep: ", error.what()));
  }
}

DType parse_float_dtype(std::string_view text) {
  const std::string name = lower(text);
  if (name == "fp32" || name == "f32" || name == "float32" || name == "float") return DType::kF32;
  if (name == "bf16" || name == "bfloat16") return DType::kBF16;
  if (name == "fp16" || name == "f16" || name == "float16" || name == "half") return DType::kF16;
  throw Error(ErrorKind::kUsage, cat("'", text, "' is not a float type; known are fp32, bf16, fp16"));
}

ActivationSpec::Mode parse_activation_mode(std::string_view text) {
  const std::string name = lower(text);
  if (name == "none") return ActivationSpec::Mode::kNone;
  if (name == "dynamic") return ActivationSpec::Mode::kDynamicPerToken;
  if (name == "static") return ActivationSpec::Mode::kStatic;
  throw Error(ErrorKind::kUsage,
              cat("'", text, "' is no way to quantize activations; known are none, dynamic, static"));
}

bool parse_dynamic_ranges(std::string_view text) {
  const std::string name = lower(text);
  if (name == "token") return false;
  if (name == "tensor") return true;
  throw Error(ErrorKind::kUsage, cat("'", text, "'; known are token, tensor"));
}

double parse_smoothquant(std::string_view text) {
  if (lower(text) == "auto") return -1;
  const auto alpha = parse_number<double>(text);
  if (!alpha || !(*alpha >= 0 && *alpha <= 1))
    throw Error(ErrorKind::kUsage, cat("'", text, "' is neither a number from 0 to 1 nor auto"));
  return *alpha;
}

bool parse_cache_scheme(std::string_view text) {
  const std::string name = lower(text);
  if (name != "none" && name != "fp8")
    throw Error(ErrorKind::kUsage, cat("'", text, "' is no form of cached keys and values; known are none, fp8"));
  return name == "fp8";
}

bool parse_calibration_compute(std::string_view text) {
  const std::string name = lower(text);
  if (name == "bf16") return true;
  if (name == "fp32") return false;
  throw Error(ErrorKind::kUsage, cat("'", text, "' is not an arithmetic; known are fp32, bf16"));
}

std::string_view float_dtype_name(DType dtype) {
  return dtype == DType::kF16 ? "fp16" : dtype == DType::kBF16 ? "bf16" : "fp32";
}

void parse_setting(std::string_view text, QuantizeRequest& request) {
  const size_t equals = text.find('=');
  const size_t dot = text.substr(0, equals).find('.');
  if (equals != std::string_view::npos && dot != std::string_view::npos && dot > 0 && dot + 1 < equals) {
    if (const auto value = parse_number<double>(text.substr(equals + 1))) {
      request.settings[std::string(text.substr(0, dot))][std::string(text.substr(dot + 1, equals - dot - 1))] = *value;
      return;
    }
  }
  throw Error(ErrorKind::kUsage, cat("'", text, "' is not ALGORITHM.OPTION=NUMBER, for example rtn.clip=0.95"));
}

}  // namespace nibble
