#include "model/jinja_text.h"

#include <utf8proc.h>

#include <array>
#include <charconv>
#include <cmath>

namespace nibble::jinja {
namespace {

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }
char32_t to_upper(char32_t c) { return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))); }
char32_t to_lower(char32_t c) { return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))); }
char32_t to_title(char32_t c) { return static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))); }

template <class Map>
std::string map_text(std::string_view text, Map map) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) append_utf8(out, map(next_code_point(text, i)));
  return out;
}

bool contains(std::string_view set, char32_t c) {
  for (size_t i = 0; i < set.size();)
    if (next_code_point(set, i) == c) return true;
  return false;
}

// Start of the code point that ends before `end`.
size_t previous(std::string_view text, size_t end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u);
  return end;
}

std::vector<std::string> split_white_space(std::string_view text, size_t max_splits) {
  std::vector<std::string> parts;
  for (;;) {
    text = strip(text, nullptr, true, false);
    if (text.empty()) return parts;
    if (parts.size() == max_splits) {
      parts.emplace_back(text);
      return parts;
    }
    size_t end = 0;
    for (size_t i = 0; i < text.size(); end = i)
      if (is_space(next_code_point(text, i))) break;
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

std::vector<std::string> split_white_space_from_right(std::string_view text, size_t max_splits) {
  std::vector<std::string> parts;
  for (;;) {
    text = strip(text, nullptr, false, true);
    if (text.empty()) break;
    if (parts.size() == max_splits) {
      parts.emplace_back(text);
      break;
    }
    size_t begin = text.size();
    while (begin > 0) {
      size_t i = previous(text, begin);
      const size_t start = i;
      if (is_space(next_code_point(text, i))) break;
      begin = start;
    }
    parts.emplace_back(text.substr(begin));
    text = text.substr(0, begin);
  }
  return {parts.rbegin(), parts.rend()};
}

}  // namespace

void Budget::spend(size_t count, size_t size) {
  size_t units = 0;
  if (__builtin_mul_overflow(count, size, &units)) units = static_cast<size_t>(-1);
  spend(units);
}

char32_t next_code_point(std::string_view text, size_t& i) {
  const auto first = static_cast<unsigned char>(text[i++]);
  if (first < 0x80) return first;
  const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  char32_t c = first & (0x3fu >> more);
  for (int k = 0; k < more && i < text.size(); ++k) c = (c << 6) | (static_cast<unsigned char>(text[i++]) & 0x3fu);
  return c;
}

void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  if (c < 0x80) return put(c);
  if (c < 0x800) return put(0xc0 | (c >> 6)), put(0x80 | (c & 0x3f));
  if (c < 0x10000) return put(0xe0 | (c >> 12)), put(0x80 | ((c >> 6) & 0x3f)), put(0x80 | (c & 0x3f));
  put(0xf0 | (c >> 18)), put(0x80 | ((c >> 12) & 0x3f)), put(0x80 | ((c >> 6) & 0x3f)), put(0x80 | (c & 0x3f));
}

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (char c : text) count += (static_cast<unsigned char>(c) & 0xc0u) != 0x80u;
  return count;
}

std::vector<size_t> code_point_offsets(std::string_view text) {
  std::vector<size_t> offsets;
  for (size_t i = 0; i < text.size(); ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xc0u) != 0x80u) offsets.push_back(i);
  offsets.push_back(text.size());
  return offsets;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_alphabetic(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
bool is_decimal(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_upper(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU; }
bool is_lower(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL; }

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

std::string upper_case(std::string_view text) { return map_text(text, to_upper); }
std::string lower_case(std::string_view text) { return map_text(text, to_lower); }

std::string capitalize(std::string_view text) {
  bool first = true;
  return map_text(text, [&](char32_t c) { return std::exchange(first, false) ? to_title(c) : to_lower(c); });
}

std::string title_case(std::string_view text) {
  bool in_word = false;
  return map_text(text, [&](char32_t c) {
    const bool letter = is_upper(c) || is_lower(c) || category(c) == UTF8PROC_CATEGORY_LT;
    const bool continues = std::exchange(in_word, letter);
    return continues ? to_lower(c) : to_title(c);
  });
}

std::string title_words(std::string_view text) {
  bool start = true;
  return map_text(text, [&](char32_t c) {
    const bool separator = is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    return std::exchange(start, separator) ? to_upper(c) : to_lower(c);
  });
}

std::string_view strip(std::string_view text, const std::string* chars, bool left, bool right) {
  const auto drop = [&](char32_t c) { return chars ? contains(*chars, c) : is_space(c); };
  while (left && !text.empty()) {
    size_t i = 0;
    if (!drop(next_code_point(text, i))) break;
    text.remove_prefix(i);
  }
  while (right && !text.empty()) {
    const size_t begin = previous(text, text.size());
    size_t i = begin;
    if (!drop(next_code_point(text, i))) break;
    text = text.substr(0, begin);
  }
  return text;
}

std::vector<std::string> split_text(std::string_view text, const std::string* separator, size_t max_splits,
                                    bool from_right) {
  if (!separator)
    return from_right ? split_white_space_from_right(text, max_splits) : split_white_space(text, max_splits);
  std::vector<std::string> parts;
  while (parts.size() < max_splits) {
    const size_t at = from_right ? text.rfind(*separator) : text.find(*separator);
    if (at == std::string_view::npos) break;
    parts.emplace_back(from_right ? text.substr(at + separator->size()) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at + separator->size());
  }
  parts.emplace_back(text);
  if (from_right) return {parts.rbegin(), parts.rend()};
  return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t at = i;
    const char32_t c = next_code_point(text, i);
    const bool ends = (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!ends) continue;
    if (c == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.emplace_back(text.substr(begin, (keep_ends ? i : at) - begin));
    begin = i;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

std::string replace_text(std::string_view text, std::string_view from, std::string_view to, size_t max_count,
                         Budget& budget) {
  std::string out;
  size_t i = 0;
  for (size_t count = 0; count < max_count; ++count) {
    const size_t at = text.find(from, i);
    if (at == std::string_view::npos) break;
    // An empty `from` matches before every character and at the end.
    size_t next = at + from.size();
    if (from.empty() && at < text.size()) next_code_point(text, next);
    budget.spend(next - i + to.size());
    out.append(text.substr(i, at - i)).append(to);
    if (from.empty()) {
      out.append(text.substr(at, next - at));
      if (at == text.size()) return out;
    }
    i = next;
  }
  return out.append(text.substr(i));
}

std::string quote(std::string_view text) {
  // Python prefers single quotes unless that would need escapes and double quotes would not.
  const bool single = text.find('\'') == std::string_view::npos || text.find('"') != std::string_view::npos;
  const char32_t mark = single ? '\'' : '"';
  std::string out(1, static_cast<char>(mark));
  const auto hex = [&](std::string_view prefix, char32_t c, int digits) {
    out += prefix;
    for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) out += "0123456789abcdef"[(c >> shift) & 0xf];
  };
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_code_point(text, i);
    if (c == mark || c == '\\') {
      out += '\\';
      append_utf8(out, c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      append_utf8(out, c);
    } else if (c < 0x100) {
      hex("\\x", c, 2);
    } else if (c < 0x10000) {
      hex("\\u", c, 4);
    } else {
      hex("\\U", c, 8);
    }
  }
  append_utf8(out, mark);
  return out;
}

std::string format_double(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 40> buffer{};
  const auto shortest =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  const std::string_view text(buffer.data(), static_cast<size_t>(shortest.ptr - buffer.data()));
  const size_t e = text.find('e');
  int exponent = 0;
  const char* digits = text.data() + e + 1 + (text[e + 1] == '+' ? 1 : 0);
  std::from_chars(digits, text.data() + text.size(), exponent);
  // Python switches to scientific notation outside of 1e-4 <= |value| < 1e16.
  if (value == 0 || (exponent >= -4 && exponent < 16)) {
    const auto fixed = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed);
    std::string out(buffer.data(), fixed.ptr);
    if (out.find('.') == std::string::npos) out += ".0";
    return out;
  }
  return std::string(text);
}

}  // namespace nibble::jinja
