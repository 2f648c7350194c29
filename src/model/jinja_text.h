#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

// Python's str operations on UTF-8 text, as templates see them. Every text here is valid UTF-8; positions that a
// template can see count code points.
namespace nibble::jinja {

// What one rendering may still do, in units of about a byte written or a nanosecond spent. Templates come with
// downloaded models: one that loops for hours or doubles a string forty times must end in an error.
class Budget {
 public:
  explicit Budget(size_t units) : left_(units) {}
  // Throws Error(kUnsupported) when nothing is left. Call before the work, so that no result is ever larger than the
  // budget.
  void spend(size_t units) {
    if (units > left_) throw Error(ErrorKind::kUnsupported, "the template does too much work or writes too much text");
    left_ -= units;
  }
  // For products whose size may not even fit: count * size units.
  void spend(size_t count, size_t size);

 private:
  size_t left_;
};

// The code point at `i`, which moves past it.
char32_t next_code_point(std::string_view text, size_t& i);
void append_utf8(std::string& out, char32_t code_point);
size_t count_code_points(std::string_view text);
// Byte offset of every code point, and the size as the last element.
std::vector<size_t> code_point_offsets(std::string_view text);

// str.isspace, and the other character classes of Unicode, of one code point.
bool is_space(char32_t c);
bool is_alphabetic(char32_t c);
bool is_decimal(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);
bool is_printable(char32_t c);

// Simple (one to one) case mappings.
std::string upper_case(std::string_view text);
std::string lower_case(std::string_view text);
std::string capitalize(std::string_view text);  // the first character upper, the rest lower
std::string title_case(std::string_view text);  // str.title: every run of letters is a word
// Jinja's title filter: words start after white space, a hyphen or an opening bracket.
std::string title_words(std::string_view text);

// `chars` null: white space.
std::string_view strip(std::string_view text, const std::string* chars, bool left, bool right);
// str.split and str.rsplit. `separator` null: runs of white space, and no empty pieces; else it is not empty.
std::vector<std::string> split_text(std::string_view text, const std::string* separator, size_t max_splits,
                                    bool from_right);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);
std::string replace_text(std::string_view text, std::string_view from, std::string_view to, size_t max_count,
                         Budget& budget);

// repr(): quoted and escaped as Python does it.
std::string quote(std::string_view text);
// repr() of a float: the shortest decimal that reads back as the same double.
std::string format_double(double value);

}  // namespace nibble::jinja
