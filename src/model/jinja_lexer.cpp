#include "model/jinja_lexer.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/text.h"
#include "model/jinja_text.h"

namespace nibble::jinja {
namespace {

constexpr size_t kMaxSource = size_t{1} << 20;  // bytes; the longest template in the wild has some 20 kB

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_name(char c) { return is_name_start(c) || is_digit(c); }

// Newlines become "\n", and one at the very end goes: Jinja's keep_trailing_newline is off.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> run() {
    while (i_ < source_.size()) data();
    add(TokenKind::kEnd, "", i_);
    return std::move(tokens_);
  }

 private:
  // Positions are asked for in rising order but for errors, so each lookup continues at the last one.
  Position position(size_t offset) {
    if (offset < counted_) counted_ = 0, at_ = Position();
    for (; counted_ < offset; ++counted_) {
      if (source_[counted_] == '\n')
        ++at_.line, at_.column = 1;
      else
        at_.column += (static_cast<unsigned char>(source_[counted_]) & 0xc0u) != 0x80u;
    }
    return at_;
  }

  [[noreturn]] void fail_at(size_t offset, const std::string& message) {
    throw Error(ErrorKind::kCorrupt, describe(position(offset)) + message);
  }

  void add(TokenKind kind, std::string text, size_t offset) {
    tokens_.push_back({kind, std::move(text), position(offset)});
  }
  bool at(std::string_view text) const { return std::string_view(source_).substr(i_).starts_with(text); }
  char peek(size_t ahead = 0) const { return i_ + ahead < source_.size() ? source_[i_ + ahead] : '\0'; }

  void skip_space() {
    while (i_ < source_.size()) {
      size_t next = i_;
      if (!is_space(next_code_point(source_, next))) return;
      i_ = next;
    }
  }

  // "{%", "{{" or "{#" at or after `from`.
  size_t find_tag(size_t from) const {
    for (size_t k = source_.find('{', from); k != std::string::npos; k = source_.find('{', k + 1))
      if (k + 1 < source_.size() && (source_[k + 1] == '%' || source_[k + 1] == '{' || source_[k + 1] == '#')) return k;
    return std::string::npos;
  }

  // Emits data [begin, end) that precedes a tag; `sign` is what follows the tag's opening.
  void add_data(size_t begin, size_t end, char sign, bool is_variable) {
    std::string_view text = std::string_view(source_).substr(begin, end - begin);
    if (sign == '-') {
      text = strip(text, nullptr, false, true);
    } else if (sign != '+' && !is_variable) {
      const size_t newline = text.rfind('\n');
      const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      const bool from_line_start = start > 0 || line_starting_;
      if (from_line_start && strip(text.substr(start), nullptr, true, false).empty()) text = text.substr(0, start);
    }
    if (!text.empty()) add(TokenKind::kData, std::string(text), begin);
  }

  // After a closing delimiter: "-" eats white space, a block's or comment's plain end one newline.
  void close(char sign, bool trims_newline) {
    if (sign == '-')
      skip_space();
    else if (sign != '+' && trims_newline && peek() == '\n')
      ++i_;
    line_starting_ = source_[i_ - 1] == '\n';
  }

  char take_sign() {
    const char c = peek();
    if (c != '-' && c != '+') return '\0';
    ++i_;
    return c;
  }

  void data() {
    const size_t begin = i_;
    const size_t tag = find_tag(i_);
    if (tag == std::string::npos) {
      add(TokenKind::kData, source_.substr(begin), begin);
      i_ = source_.size();
      return;
    }
    i_ = tag + 2;
    const char kind = source_[tag + 1];
    const char sign = take_sign();
    add_data(begin, tag, sign, kind == '{');
    if (kind == '#') return comment(tag);
    if (kind == '%' && raw(tag)) return;
    add(kind == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, "", tag);
    inside(kind == '%', tag);
  }

  void comment(size_t tag) {
    const size_t end = source_.find("#}", i_);
    if (end == std::string::npos) fail_at(tag, "a comment is not closed by #}");
    const char sign = end > i_ && (source_[end - 1] == '-' || source_[end - 1] == '+') ? source_[end - 1] : '\0';
    i_ = end + 2;
    close(sign, true);
  }

  // Consumes "raw %}...{% endraw %}" when that is what follows the opened block.
  bool raw(size_t tag) {
    const size_t saved = i_;
    char begin_sign = '\0';
    if (!word_tag("raw", begin_sign) || begin_sign == '+') {
      i_ = saved;
      return false;
    }
    close(begin_sign, false);
    const size_t begin = i_;
    for (size_t end = source_.find("{%", i_); end != std::string::npos; end = source_.find("{%", end + 1)) {
      i_ = end + 2;
      const char sign = take_sign();
      char end_sign = '\0';
      if (!word_tag("endraw", end_sign)) continue;
      add_data(begin, end, sign, false);
      close(end_sign, true);
      return true;
    }
    fail_at(tag, "a raw block is not closed by {% endraw %}");
  }

  // "WORD %}" with optional white space and sign, consumed.
  bool word_tag(std::string_view word, char& sign) {
    skip_space();
    if (!at(word)) return false;
    i_ += word.size();
    skip_space();
    sign = take_sign();
    if (!at("%}")) return false;
    i_ += 2;
    return true;
  }

  // Everything up to the end of a block or variable tag.
  void inside(bool block, size_t tag) {
    const std::string_view end = block ? "%}" : "}}";
    std::string open;  // brackets: inside of them "}}" closes two dictionaries
    for (;;) {
      skip_space();
      if (i_ >= source_.size()) fail_at(tag, cat("a tag is not closed by ", end));
      const size_t begin = i_;
      if (open.empty()) {
        const bool minus = peek() == '-', plus = block && peek() == '+';
        if (at(end) || ((minus || plus) && source_.compare(i_ + 1, 2, end) == 0)) {
          const char sign = minus || plus ? take_sign() : '\0';
          i_ += 2;
          add(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "", begin);
          return close(sign, block);
        }
      }
      const char c = peek();
      if (is_name_start(c)) {
        while (is_name(peek())) ++i_;
        add(TokenKind::kName, source_.substr(begin, i_ - begin), begin);
      } else if (is_digit(c)) {
        number();
      } else if (c == '"' || c == '\'') {
        string();
      } else {
        operation(open);
      }
    }
  }

  void digits() {
    while (is_digit(peek()) || (peek() == '_' && is_digit(peek(1)))) ++i_;
  }

  void number() {
    const size_t begin = i_;
    bool is_float = false;
    digits();
    // After a dot, digits are a subscript: "a.0.1" has no number with a fraction in it.
    const bool subscript = begin > 0 && source_[begin - 1] == '.';
    if (!subscript && peek() == '.' && is_digit(peek(1))) ++i_, digits(), is_float = true;
    const size_t sign = peek(1) == '+' || peek(1) == '-' ? 1 : 0;
    if (!subscript && (peek() == 'e' || peek() == 'E') && is_digit(peek(1 + sign)))
      i_ += 1 + sign, digits(), is_float = true;
    if (is_name_start(peek()))
      throw Error(ErrorKind::kUnsupported, describe(position(begin)) + "only decimal numbers are known");
    std::string text = source_.substr(begin, i_ - begin);
    std::erase(text, '_');
    add(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(text), begin);
  }

  char32_t hex_escape(size_t begin, size_t digits) {
    char32_t value = 0;
    for (size_t k = 0; k < digits; ++k, ++i_) {
      const char c = static_cast<char>(peek() | 0x20);
      if (!is_digit(peek()) && (c < 'a' || c > 'f'))
        fail_at(begin, "a string has an escape that lacks hexadecimal digits");
      value = value * 16 + static_cast<char32_t>(is_digit(peek()) ? peek() - '0' : c - 'a' + 10);
    }
    return value;
  }

  // The escape after a backslash, which has been consumed.
  void escape(std::string& out, size_t begin) {
    constexpr std::string_view kNames = "\\'\"abfnrtv", kValues = "\\'\"\a\b\f\n\r\t\v";
    const char c = peek();
    char32_t value = 0;
    if (const size_t known = kNames.find(c); known != std::string_view::npos && c != '\0') {
      ++i_;
      out += kValues[known];
      return;
    }
    if (c == '\n') {
      ++i_;
      return;
    }
    if (c == 'x' || c == 'u' || c == 'U') {
      ++i_;
      value = hex_escape(begin, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (c >= '0' && c <= '7') {
      for (int k = 0; k < 3 && peek() >= '0' && peek() <= '7'; ++k, ++i_)
        value = value * 8 + static_cast<char32_t>(peek() - '0');
    } else if (c == 'N') {
      throw Error(ErrorKind::kUnsupported, describe(position(begin)) + "characters by name (\\N) are not known");
    } else {
      out += '\\';  // not an escape: the backslash stays, and so does what follows
      return;
    }
    if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
      fail_at(begin, "a string has an escape that is no Unicode character");
    append_utf8(out, value);
  }

  void string() {
    const size_t begin = i_;
    const char mark = source_[i_++];
    std::string text;
    while (peek() != mark || i_ >= source_.size()) {
      if (i_ >= source_.size()) fail_at(begin, "a string is not closed");
      const char c = source_[i_++];
      if (c == '\\')
        escape(text, begin);
      else
        text += c;
    }
    ++i_;
    add(TokenKind::kString, std::move(text), begin);
  }

  void operation(std::string& open) {
    constexpr std::array<std::string_view, 25> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                             "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                             ">",  "<",  "=",  ".",  ":",  "|",  ","};
    const auto known =
        std::find_if(kOperators.begin(), kOperators.end(), [&](std::string_view text) { return at(text); });
    if (known == kOperators.end()) {
      size_t end = i_;
      next_code_point(source_, end);
      throw Error(ErrorKind::kUnsupported,
                  cat(describe(position(i_)), "unexpected character ", quote(source_.substr(i_, end - i_))));
    }
    const char c = (*known)[0];
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) fail_at(i_, cat("unexpected '", c, "'"));
      open.pop_back();
    }
    add(TokenKind::kOperator, std::string(*known), i_);
    i_ += known->size();
  }

  std::string source_;
  std::vector<Token> tokens_;
  size_t i_ = 0;
  bool line_starting_ = true;  // does the data at i_ start a line?
  size_t counted_ = 0;         // at_ is the position of this offset
  Position at_;
};

}  // namespace

std::string describe(Position at) { return cat("line ", at.line, " column ", at.column, ": "); }

std::vector<Token> tokenize(std::string_view source) {
  if (source.size() > kMaxSource)
    throw Error(ErrorKind::kUnsupported,
                cat("the template has ", source.size(), " bytes; at most ", kMaxSource, " are accepted"));
  if (const size_t bad = find_invalid_utf8(source); bad != std::string_view::npos)
    throw Error(ErrorKind::kCorrupt, cat("the template is not UTF-8 at byte ", bad));
  return Lexer(normalize_newlines(source)).run();
}

}  // namespace nibble::jinja
