#include "core/json.h"

#include "core/files.h"

namespace nibble {
namespace {

constexpr int kMaxDepth = 256;

// The parser does not recurse, but walks over its result do. Counting before parsing is faster than the parser's
// callback.
bool nested_too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      in_string = !in_string;
    } else if (in_string) {
      if (c == '\\') ++i;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

template <class T, class Check, class Read>
std::optional<T> find_as(const Json& object, std::string_view key, std::string_view type, Check check, Read read) {
  const Json* value = find(object, key);
  if (!value) return std::nullopt;
  if (!check(*value))
    throw Error(ErrorKind::kCorrupt, cat("'", key, "' should be a ", type, ", found ", value->type_name()));
  return read(*value);
}

template <class T>
T required(std::optional<T> value, std::string_view key) {
  if (!value) throw Error(ErrorKind::kCorrupt, cat("'", key, "' is missing"));
  return *std::move(value);
}

}  // namespace

Json parse_json(std::string_view text, std::string_view source) {
  if (nested_too_deep(text))
    throw Error(ErrorKind::kCorrupt, cat(source, ": JSON nested deeper than ", kMaxDepth, " levels"));
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::parse_error& error) {
    throw Error(ErrorKind::kCorrupt, cat(source, ": not valid JSON at byte ", error.byte));
  } catch (const nlohmann::json::exception&) {
    throw Error(ErrorKind::kCorrupt, cat(source, ": not valid JSON (a number is out of range)"));
  }
}

Json read_json_file(const std::filesystem::path& path) { return parse_json(read_text_file(path), path.string()); }

const Json* find(const Json& object, std::string_view key) {
  if (!object.is_object())
    throw Error(ErrorKind::kCorrupt, cat("expected a JSON object with '", key, "', found ", object.type_name()));
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

const Json& get(const Json& object, std::string_view key) {
  const Json* value = find(object, key);
  if (!value) throw Error(ErrorKind::kCorrupt, cat("'", key, "' is missing"));
  return *value;
}

std::optional<std::string> find_string(const Json& object, std::string_view key) {
  return find_as<std::string>(
      object, key, "string", [](const Json& v) { return v.is_string(); },
      [](const Json& v) { return v.get<std::string>(); });
}
std::optional<double> find_number(const Json& object, std::string_view key) {
  return find_as<double>(
      object, key, "number", [](const Json& v) { return v.is_number(); },
      [](const Json& v) { return v.get<double>(); });
}
std::optional<size_t> find_size(const Json& object, std::string_view key) {
  return find_as<size_t>(
      object, key, "non-negative integer",
      [](const Json& v) { return v.is_number_unsigned() || (v.is_number_integer() && v.get<int64_t>() >= 0); },
      [](const Json& v) { return v.get<size_t>(); });
}
std::optional<bool> find_bool(const Json& object, std::string_view key) {
  return find_as<bool>(
      object, key, "true or false", [](const Json& v) { return v.is_boolean(); },
      [](const Json& v) { return v.get<bool>(); });
}
std::string get_string(const Json& object, std::string_view key) { return required(find_string(object, key), key); }
double get_number(const Json& object, std::string_view key) { return required(find_number(object, key), key); }
size_t get_size(const Json& object, std::string_view key) { return required(find_size(object, key), key); }

}  // namespace nibble
