#include "core/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

#include "core/error.h"

namespace nibble {

std::string format_fixed(double value, int digits) {
  std::array<char, 64> buffer{};
  const int length = std::snprintf(buffer.data(), buffer.size(), "%.*f", digits, value);
  return {buffer.data(), std::min(buffer.size() - 1, static_cast<size_t>(std::max(length, 0)))};
}

std::string format_bytes(size_t bytes) {
  if (bytes < 1000) return cat(bytes, " B");
  constexpr std::array kUnits = {"kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(bytes) / 1000;
  size_t unit = 0;
  for (; value >= 999.95 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return cat(format_fixed(value, 1), " ", kUnits[unit]);
}

size_t parse_bytes(std::string_view text) {
  double value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  if (unit.ends_with('B') || unit.ends_with('b')) unit.remove_suffix(1);
  const bool binary = unit.ends_with('i');
  if (binary) unit.remove_suffix(1);
  const size_t power = unit.empty() ? 0 : std::string_view("KMGT").find(static_cast<char>(unit[0] & ~0x20)) + 1;
  if (status != std::errc() || unit.size() > 1 || (unit.size() == 1 && power == 0) || (binary && unit.empty()) ||
      !(value >= 0))
    throw Error(ErrorKind::kUsage, cat("'", text, "' is not a size; write 512M, 2.5G or 2Gi"));
  for (size_t i = 0; i < power; ++i) value *= binary ? 1024 : 1000;
  if (value >= 9e18) throw Error(ErrorKind::kUsage, cat("'", text, "' is too large"));
  return static_cast<size_t>(value);
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (const std::string& part : parts) {
    if (&part != &parts.front()) out += separator;
    out += part;
  }
  return out;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (;;) {
    const size_t at = text.find(separator);
    parts.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  return out;
}

std::string quote(std::string_view text) {
  constexpr size_t kLongest = 100;
  constexpr std::string_view kHex = "0123456789abcdef";
  const bool cut = text.size() > kLongest;
  if (cut) text = text.substr(0, kLongest);
  // Cutting may split a character: then its first bytes are invalid UTF-8 and escaped like any others.
  std::string out = "'";
  size_t valid = find_invalid_utf8(text);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (i == valid || byte < 0x20 || byte == 0x7f) {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
      if (i == valid) {
        valid = find_invalid_utf8(text.substr(i + 1));
        if (valid != std::string_view::npos) valid += i + 1;
      }
    } else {
      out += text[i];
    }
  }
  out += cut ? "...'" : "'";
  return out;
}

std::string normalize_newlines(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\r')
      out += text[i];
    else if (i + 1 == text.size() || text[i + 1] != '\n')
      out += '\n';
  }
  return out;
}

size_t find_invalid_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  for (size_t i = 0; i < text.size();) {
    const unsigned first = byte(i);
    if (first < 0x80) {
      ++i;
      continue;
    }
    const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || i + length > text.size()) return i;
    // The second byte's range excludes over-long forms, surrogates and what lies past U+10FFFF.
    const unsigned low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const unsigned high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (byte(i + 1) < low || byte(i + 1) > high) return i;
    for (size_t k = 2; k < length; ++k)
      if ((byte(i + k) & 0xc0) != 0x80) return i;
    i += length;
  }
  return std::string_view::npos;
}

}  // namespace nibble
