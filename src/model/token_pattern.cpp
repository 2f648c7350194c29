#include "model/token_pattern.h"

#include <algorithm>
#include <vector>

#include "model/token_text.h"

namespace nibble {
namespace {

// Members of a bracketed class.
constexpr std::string_view kSpace =
    R"(\t-\r\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kWord =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

[[noreturn]] void refuse(std::string_view pattern, std::string_view what) {
  throw Error(ErrorKind::kUnsupported, cat("regular expression '", pattern, "': ", what, " is not supported"));
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) item();
    return std::move(out_);
  }

 private:
  char peek(size_t ahead = 0) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }
  void copy(size_t count) {
    count = std::min(count, in_.size() - at_);
    out_ += in_.substr(at_, count);
    at_ += count;
  }

  void item() {
    switch (peek()) {
      case '\\':
        atom_ = out_.size();
        return escape();
      case '[':
        atom_ = out_.size();
        return bracket();
      case '(':
        open_.push_back(out_.size());
        copy(1);
        if (peek() == '?') group_options();
        return;
      case ')':
        atom_ = open_.empty() ? out_.size() : open_.back();
        if (!open_.empty()) open_.pop_back();
        return copy(1);
      case '^':
        out_ += "(?m:^)";
        ++at_;
        return;
      case '$':
        out_ += "(?m:$)";
        ++at_;
        return;
      case '{':
        return interval();
      case '*':
      case '+':
      case '?':
      case '|':
        return copy(1);
      default:
        atom_ = out_.size();
        return copy(char_length(peek()));
    }
  }

  void group_options() {
    // (?: (?= (?! (?> (?<= (?<! (?<name> (?# and option letters; Ruby's m is PCRE2's s.
    copy(1);
    if (peek() == '#') refuse(in_, "(?#");
    while (peek() == 'i' || peek() == 'm' || peek() == 'x' || peek() == '-') {
      if (peek() == 'x') refuse(in_, "(?x)");
      if (peek() == 'm') {
        out_ += 's';
        ++at_;
      } else {
        copy(1);
      }
    }
  }

  // {n,m}; a + after it repeats the repeat, where PCRE2 would make it possessive.
  void interval() {
    size_t end = at_ + 1;
    while (end < in_.size() && ((in_[end] >= '0' && in_[end] <= '9') || in_[end] == ',')) ++end;
    if (end >= in_.size() || in_[end] != '}' || end == at_ + 1) {  // a literal brace
      atom_ = out_.size();
      out_ += "\\{";
      ++at_;
      return;
    }
    if (peek(1) == ',') {  // {,m}: Oniguruma's {0,m}, which older PCRE2 takes literally
      out_ += "{0";
      ++at_;
      copy(end + 1 - at_);
    } else {
      copy(end + 1 - at_);
    }
    if (peek() == '+') {
      out_.insert(atom_, "(?:");
      out_ += ")";
    }
  }

  // \p{...} and \x{...} with their braces.
  void braced() {
    copy(2);
    if (peek() != '{') return;
    const size_t close = in_.find('}', at_);
    if (close == std::string_view::npos) refuse(in_, "a brace that is not closed");
    copy(close + 1 - at_);
  }

  void escape() {
    const char kind = peek(1);
    switch (kind) {
      case 's':
        out_ += cat("[", kSpace, "]");
        break;
      case 'S':
        out_ += cat("[^", kSpace, "]");
        break;
      case 'w':
        out_ += cat("[", kWord, "]");
        break;
      case 'W':
        out_ += cat("[^", kWord, "]");
        break;
      case 'p':
      case 'P':
      case 'x':
        return braced();
      case 'Z':
        out_ += "\\Z";
        break;
      default: {
        constexpr std::string_view kKnown = "dDbBAzGntrfvae";
        const bool letter = (kind >= 'a' && kind <= 'z') || (kind >= 'A' && kind <= 'Z');
        if (kind == '\0') refuse(in_, "a backslash at the end");
        if (letter && kKnown.find(kind) == std::string_view::npos) refuse(in_, cat("\\", kind));
        if (kind == 'v') {  // Oniguruma: vertical tab; PCRE2: any vertical space
          out_ += "\\x0b";
          break;
        }
        return copy(1 + char_length(kind));
      }
    }
    at_ += 2;
  }

  // A class; what it takes from \S and \W, which a PCRE2 class cannot hold by our definition, stands beside it.
  void bracket() {
    const size_t start = out_.size();
    ++at_;
    const bool negated = peek() == '^';
    if (negated) ++at_;
    std::vector<std::string_view> complements;
    bool first = true;
    for (; at_ < in_.size() && (first || peek() != ']'); first = false) {
      if (peek() == '[') {
        const size_t close = in_.find(":]", at_);
        if (peek(1) != ':' || close == std::string_view::npos) refuse(in_, "a class inside a class");
        copy(close + 2 - at_);
      } else if (peek() == '&' && peek(1) == '&') {
        refuse(in_, "&& in a class");
      } else if (peek() == '\\' && (peek(1) == 'S' || peek(1) == 'W')) {
        complements.push_back(peek(1) == 'S' ? kSpace : kWord);
        at_ += 2;
      } else if (peek() == '\\') {
        class_escape();
      } else {
        copy(char_length(peek()));
      }
    }
    if (at_ >= in_.size()) refuse(in_, "a class that is not closed");
    ++at_;
    const std::string body = out_.substr(start);
    out_.resize(start);
    if (complements.empty()) {
      out_ += cat(negated ? "[^" : "[", body, "]");
    } else if (negated) {  // in every complement's class, and not in the body
      out_ += "(?:";
      if (!body.empty()) out_ += cat("(?![", body, "])");
      for (size_t i = 1; i < complements.size(); ++i) out_ += cat("(?=[", complements[i], "])");
      out_ += cat("[", complements[0], "])");
    } else {
      out_ += "(?:";
      if (!body.empty()) out_ += cat("[", body, "]|");
      for (size_t i = 0; i < complements.size(); ++i) out_ += cat(i == 0 ? "[^" : "|[^", complements[i], "]");
      out_ += ")";
    }
  }

  void class_escape() {
    const char kind = peek(1);
    if (kind == 's' || kind == 'w') {
      out_ += kind == 's' ? kSpace : kWord;
      at_ += 2;
    } else if (kind == 'v') {
      out_ += "\\x0b";
      at_ += 2;
    } else if (kind == 'h' || kind == 'H' || kind == 'R' || kind == 'X') {
      refuse(in_, cat("\\", kind, " in a class"));
    } else if (kind == 'p' || kind == 'P' || kind == 'x') {
      braced();
    } else if (kind == '\0') {
      refuse(in_, "a backslash at the end");
    } else {
      copy(1 + char_length(kind));
    }
  }

  std::string_view in_;
  std::string out_;
  size_t at_ = 0;
  size_t atom_ = 0;           // where in out_ the item begins that a repeat would repeat
  std::vector<size_t> open_;  // where in out_ the open groups begin
};

Regex compile(std::string_view oniguruma) {
  try {
    return Regex(pcre_from_oniguruma(oniguruma));
  } catch (const Error& error) {
    throw Error(ErrorKind::kUnsupported, error.what());
  }
}

}  // namespace

std::string pcre_from_oniguruma(std::string_view pattern) { return Translator(pattern).run(); }

TokenPattern::TokenPattern(const Json& pattern) {
  if (const auto regex = find_string(pattern, "Regex"))
    regex_ = compile(*regex);
  else
    literal_ = get_string(pattern, "String");
}

TokenPattern TokenPattern::from_regex(std::string_view oniguruma) {
  TokenPattern pattern;
  pattern.regex_ = compile(oniguruma);
  return pattern;
}

std::optional<Regex::Match> TokenPattern::find(std::string_view text, size_t at) const {
  if (regex_) return regex_->find(text, at);
  const size_t begin = text.find(literal_, at);
  if (begin == std::string_view::npos) return std::nullopt;
  return Regex::Match{begin, begin + literal_.size()};
}

size_t TokenPattern::step(std::string_view text, size_t at) { return at < text.size() ? char_length(text[at]) : 1; }

}  // namespace nibble
