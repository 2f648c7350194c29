#include "pipeline/torchchat.h"

#include <initializer_list>

#include "core/text.h"

namespace nibble {
namespace {

// Python's literals as JSON. Only what stands outside strings is translated; a JSON text passes through unchanged.
std::string to_json(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '\'' || c == '"') {
      out += '"';
      for (++i; i < text.size() && text[i] != c; ++i) {
        if (text[i] == '\\' && i + 1 < text.size()) {
          if (text[i + 1] != '\'') out += text[i];
          ++i;
        } else if (text[i] == '"') {
          out += '\\';
        }
        out += text[i];
      }
      if (i < text.size()) out += '"', ++i;
      continue;
    }
    bool word = false;
    for (const auto& [python, json] :
         {std::pair<std::string_view, std::string_view>{"True", "true"}, {"False", "false"}, {"None", "null"}}) {
      if (!text.substr(i).starts_with(python)) continue;
      out += json;
      i += python.size();
      word = true;
      break;
    }
    if (!word) out += c, ++i;
  }
  return out;
}

void check_keys(const Json& options, std::string_view where, std::initializer_list<std::string_view> known) {
  if (!options.is_object())
    throw Error(ErrorKind::kUsage, cat("'", where, "' should be a dictionary, found ", options.type_name()));
  for (const auto& item : options.items()) {
    bool found = false;
    std::string names;
    for (const std::string_view name : known) {
      found |= name == item.key();
      names += cat(names.empty() ? "" : ", ", name);
    }
    if (!found)
      throw Error(ErrorKind::kUsage, cat("'", where, "' has no option '", item.key(), "'; known are ", names));
  }
}

size_t group_of(const Json& options, size_t otherwise) {
  const Json* value = find(options, "groupsize");
  if (value == nullptr) return otherwise;
  if (!value->is_number_integer())
    throw Error(ErrorKind::kUsage, cat("'groupsize' should be an integer, found ", value->dump()));
  return parse_group(value->dump());
}

int bits_of(const Json& options, std::string_view where, int otherwise, std::initializer_list<int> allowed) {
  const auto bits = find_size(options, "bitwidth");
  if (!bits) return otherwise;
  std::string names;
  for (const int value : allowed) {
    if (*bits == static_cast<size_t>(value)) return value;
    names += cat(names.empty() ? "" : " or ", value);
  }
  throw Error(ErrorKind::kUsage, cat("'", where, "': bitwidth ", *bits, "; expected ", names));
}

struct LinearKind {
  std::string_view name;
  int bits;
  size_t group;  // when the dictionary names none
  bool symmetric;
  int activation_bits;  // 0: none
  std::string_view algorithm;
};

constexpr LinearKind kLinears[] = {
    {"linear:int8", 8, QuantSpec::kWholeRow, true, 0, ""},
    {"linear:int4", 4, 32, false, 0, ""},
    {"linear:8da4w", 4, 32, true, 8, ""},
    {"linear:a8w4dq", 4, 32, true, 8, ""},
    {"linear:a6w4dq", 4, 32, true, 6, ""},
    {"linear:gptq", 4, 32, false, 0, "gptq"},
    {"linear:hqq", 4, 32, false, 0, "hqq"},
};

void apply_linear(const LinearKind& kind, const Json& options, QuantizeRequest& request) {
  check_keys(options, kind.name, {"bitwidth", "groupsize"});
  request.scheme.reset();  // the dictionary says all there is to say about the linears
  request.activations.reset();
  request.change = {};
  request.change.bits = bits_of(options, kind.name, kind.bits, {kind.bits});
  request.change.group = group_of(options, kind.group);
  request.change.symmetric = kind.symmetric;
  if (kind.activation_bits != 0) {
    ActivationSpec activations;
    activations.mode = ActivationSpec::Mode::kDynamicPerToken;
    activations.bits = kind.activation_bits;
    activations.symmetric = false;
    request.activations = activations;
  }
  if (!kind.algorithm.empty()) request.algorithm = kind.algorithm;
}

}  // namespace

void apply_torchchat(std::string_view text, QuantizeRequest& request) {
  Json dictionary;
  try {
    dictionary = parse_json(to_json(text), "the quantization dictionary");
  } catch (const Error& error) {
    throw Error(ErrorKind::kUsage, error.what());  // it was typed, not read from a model
  }
  apply_torchchat_json(dictionary, request);
}

void apply_torchchat_json(const Json& dictionary, QuantizeRequest& request) {
  if (!dictionary.is_object())
    throw Error(ErrorKind::kUsage, cat("a quantization dictionary is {\"linear:int4\": {\"groupsize\": 32}}, found ",
                                       dictionary.type_name()));
  std::string linear;
  for (const auto& [key, options] : dictionary.items()) {
    if (key == "embedding") {
      check_keys(options, key, {"bitwidth", "groupsize"});
      request.embedding = TableChoice{false, bits_of(options, key, 8, {4, 8}), group_of(options, QuantSpec::kWholeRow)};
      continue;
    }
    if (key == "precision") {
      check_keys(options, key, {"dtype"});
      if (const auto dtype = find_string(options, "dtype")) request.dtype = parse_float_dtype(*dtype);
      continue;
    }
    const LinearKind* kind = nullptr;
    std::string names;
    for (const LinearKind& candidate : kLinears) {
      if (candidate.name == key) kind = &candidate;
      names += cat(candidate.name, ", ");
    }
    if (kind == nullptr)
      throw Error(ErrorKind::kUsage,
                  cat("unknown quantization '", key, "'; known are ", names, "embedding, precision"));
    if (!linear.empty())
      throw Error(ErrorKind::kUsage,
                  cat("'", linear, "' and '", key, "' both say how to quantize the linears; keep one"));
    linear = key;
    apply_linear(*kind, options, request);
  }
}

}  // namespace nibble
