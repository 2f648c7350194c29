#include "formats/gguf.h"

#include "core/checked.h"
#include "core/text.h"

namespace nibble {
namespace {

template <class T>
const T& typed(const GgufValue& value, std::string_view key, const char* type) {
  const T* data = std::get_if<T>(&value.data);
  if (!data) throw Error(ErrorKind::kCorrupt, cat(key, " should be ", type, ", found ", describe(value)));
  return *data;
}

template <class T>
const T* find_typed(const Gguf& gguf, std::string_view key, const char* type) {
  const GgufValue* value = gguf.find(key);
  return value ? &typed<T>(*value, key, type) : nullptr;
}

}  // namespace

std::string describe(const GgufValue& value) {
  struct Visitor {
    std::string operator()(uint64_t v) const { return cat("the number ", v); }
    std::string operator()(int64_t v) const { return cat("the number ", v); }
    std::string operator()(double v) const { return cat("the number ", v); }
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(std::string_view v) const { return cat("the string ", quote(v)); }
    std::string operator()(const std::vector<int64_t>& v) const { return cat("a list of ", v.size(), " integers"); }
    std::string operator()(const std::vector<double>& v) const { return cat("a list of ", v.size(), " numbers"); }
    std::string operator()(const std::vector<bool>& v) const { return cat("a list of ", v.size(), " booleans"); }
    std::string operator()(const GgufValue::Strings& v) const { return cat("a list of ", v.size(), " strings"); }
  };
  return std::visit(Visitor{}, value.data);
}

const GgufValue* Gguf::find(std::string_view key) const {
  const auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &it->second;
}

std::optional<std::string_view> Gguf::find_string(std::string_view key) const {
  const auto* text = find_typed<std::string_view>(*this, key, "a string");
  return text ? std::optional(*text) : std::nullopt;
}

std::optional<uint64_t> Gguf::find_unsigned(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (const auto* number = std::get_if<int64_t>(&value->data); number && *number >= 0)
    return static_cast<uint64_t>(*number);
  return typed<uint64_t>(*value, key, "a non-negative integer");
}

std::optional<double> Gguf::find_number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (const auto* number = std::get_if<int64_t>(&value->data)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<uint64_t>(&value->data)) return static_cast<double>(*number);
  return typed<double>(*value, key, "a number");
}

std::optional<bool> Gguf::find_bool(std::string_view key) const {
  const bool* value = find_typed<bool>(*this, key, "a boolean");
  return value ? std::optional(*value) : std::nullopt;
}

const GgufValue::Strings* Gguf::find_strings(std::string_view key) const {
  return find_typed<GgufValue::Strings>(*this, key, "a list of strings");
}
const std::vector<int64_t>* Gguf::find_integers(std::string_view key) const {
  return find_typed<std::vector<int64_t>>(*this, key, "a list of integers");
}
const std::vector<double>* Gguf::find_numbers(std::string_view key) const {
  return find_typed<std::vector<double>>(*this, key, "a list of numbers");
}

}  // namespace nibble
