#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

// "269.0 MB", decimal units as disks are sold.
std::string format_bytes(size_t bytes);
// printf's %.{digits}f.
std::string format_fixed(double value, int digits);
// "512M", "2.5G", "1048576": decimal K/M/G/T, binary with an i ("2Gi"), an optional B. Throws Error(kUsage).
size_t parse_bytes(std::string_view text);
std::string join(const std::vector<std::string>& parts, std::string_view separator);
// Pieces between separators; "" gives one empty piece.
std::vector<std::string> split(std::string_view text, char separator);
std::string lower(std::string_view text);  // ASCII only
// "\r\n" and lone "\r" become "\n", as in Python's text mode.
std::string normalize_newlines(std::string_view text);
// "'name'" for messages: bytes that would break the line (control characters, invalid UTF-8) as \xNN, cut after 100
// bytes.
std::string quote(std::string_view text);
// Offset of the first byte that is not well-formed UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);

}  // namespace nibble
