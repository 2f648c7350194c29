#include "pipeline/gate.h"

#include <charconv>
#include <cmath>

#include "core/text.h"

namespace nibble {
namespace {

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

std::string keys_of(const OrderedJson& value) {
  std::vector<std::string> keys;
  for (const auto& item : value.items()) keys.push_back(item.key());
  return join(keys, ", ");
}

const OrderedJson& value_at(const OrderedJson& result, const std::vector<std::string>& path, const std::string& text) {
  const OrderedJson* value = &result;
  std::string walked = "the result";
  for (const std::string& key : path) {
    const OrderedJson* next = nullptr;
    if (value->is_object() && value->contains(key)) next = &(*value)[key];
    if (value->is_array()) {
      size_t index = 0;
      const auto [end, status] = std::from_chars(key.data(), key.data() + key.size(), index);
      if (status == std::errc() && end == key.data() + key.size() && index < value->size()) next = &(*value)[index];
    }
    if (next == nullptr) {
      const std::string there = value->is_object()  ? cat("it has ", keys_of(*value))
                                : value->is_array() ? cat("it is a list of ", value->size())
                                                    : "it is a single value";
      throw Error(ErrorKind::kUsage, cat("--fail-if '", text, "': ", walked, " has no '", key, "'; ", there));
    }
    value = next;
    walked = cat("'", key, "'");
  }
  return *value;
}

}  // namespace

Gate Gate::parse(std::string_view text) {
  Gate gate;
  gate.text_ = text;
  const size_t at = text.find_first_of("<>=!");
  const size_t after = at == std::string_view::npos ? at : text.find_first_not_of("<>=!", at);
  if (after != std::string_view::npos) {
    gate.path_ = split(trim(text.substr(0, at)), '.');
    gate.comparison_ = text.substr(at, after - at);
    const std::string_view number = trim(text.substr(after));
    const auto [end, status] = std::from_chars(number.data(), number.data() + number.size(), gate.limit_);
    const bool known = gate.comparison_ == "<" || gate.comparison_ == "<=" || gate.comparison_ == ">" ||
                       gate.comparison_ == ">=" || gate.comparison_ == "==" || gate.comparison_ == "!=";
    bool named = true;
    for (const std::string& key : gate.path_) named = named && !key.empty();
    if (known && named && status == std::errc() && end == number.data() + number.size() && std::isfinite(gate.limit_))
      return gate;
  }
  throw Error(ErrorKind::kUsage,
              cat("--fail-if '", text, "' is not PATH COMPARISON NUMBER; write for example 'kld.mean>0.05'"));
}

std::optional<std::string> Gate::failure(const OrderedJson& result) const {
  const OrderedJson& found = value_at(result, path_, text_);
  if (found.is_object() || found.is_array() || found.is_string())
    throw Error(ErrorKind::kUsage, cat("--fail-if '", text_, "': that is a ", found.type_name(), ", not a number"));
  const double value = found.is_boolean()  ? static_cast<double>(found.get<bool>())
                       : found.is_number() ? found.get<double>()
                                           : std::nan("");
  bool failed = !std::isfinite(value);
  if (comparison_ == "<") failed |= value < limit_;
  if (comparison_ == "<=") failed |= value <= limit_;
  if (comparison_ == ">") failed |= value > limit_;
  if (comparison_ == ">=") failed |= value >= limit_;
  if (comparison_ == "==") failed |= value == limit_;
  if (comparison_ == "!=") failed |= value != limit_;
  if (!failed) return std::nullopt;
  return cat("'", text_, "' (it is ", value, ")");
}

std::vector<Gate> parse_gates(const std::vector<std::string>& texts) {
  std::vector<Gate> gates;
  gates.reserve(texts.size());
  for (const std::string& text : texts) gates.push_back(Gate::parse(text));
  return gates;
}

void check_gates(const std::vector<Gate>& gates, const OrderedJson& result) {
  std::vector<std::string> failed;
  for (const Gate& gate : gates)
    if (auto failure = gate.failure(result)) failed.push_back(std::move(*failure));
  if (!failed.empty()) throw Error(ErrorKind::kGate, cat("failed: ", join(failed, ", ")));
}

}  // namespace nibble
