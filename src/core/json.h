#pragma once
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "core/error.h"

namespace nibble {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // for what we write: keys stay in the order of the code

// Throws Error(kCorrupt) "SOURCE: not valid JSON at byte N" (counted from 1). Duplicate keys: the last one wins.
// Nesting is limited to 256 levels, so that hostile input cannot exhaust the stack.
Json parse_json(std::string_view text, std::string_view source);
Json read_json_file(const std::filesystem::path& path);

// Typed access that never throws nlohmann's exceptions: Error(kCorrupt) "'KEY' should be a TYPE, found ...".
// `object` must be a JSON object. The `find_` forms give nothing for an absent key or null.
const Json* find(const Json& object, std::string_view key);
const Json& get(const Json& object, std::string_view key);
std::optional<std::string> find_string(const Json& object, std::string_view key);
std::optional<double> find_number(const Json& object, std::string_view key);
std::optional<size_t> find_size(const Json& object, std::string_view key);  // a non-negative integer
std::optional<bool> find_bool(const Json& object, std::string_view key);
std::string get_string(const Json& object, std::string_view key);
double get_number(const Json& object, std::string_view key);
size_t get_size(const Json& object, std::string_view key);

}  // namespace nibble
