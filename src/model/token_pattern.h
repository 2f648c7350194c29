#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "core/json.h"
#include "core/regex.h"

namespace nibble {

// tokenizer.json's regular expressions are written for Oniguruma (Ruby syntax); this is the PCRE2 pattern with the same
// matches: \s and \w by Unicode's definition, ^ and $ at every line, {n,m}+ as a repeated repeat.
// Throws Error(kUnsupported) for what has no counterpart (class intersections, \h, ...).
std::string pcre_from_oniguruma(std::string_view pattern);

// What a Split or Replace looks for: {"Regex": "..."} or {"String": "..."}.
class TokenPattern {
 public:
  // Throws Error(kCorrupt) for a wrong shape, Error(kUnsupported) for a pattern that does not compile.
  explicit TokenPattern(const Json& pattern);
  static TokenPattern from_regex(std::string_view oniguruma);

  // Calls found(begin, end) for every match in `text`, left to right, not overlapping. An empty match is reported
  // unless it touches the match before it.
  template <class Found>
  void for_each(std::string_view text, const Found& found) const {
    size_t at = 0;
    size_t last_end = SIZE_MAX;
    while (at <= text.size()) {
      const auto match = find(text, at);
      if (!match) return;
      if (match->begin == match->end && match->end == last_end) {
        at = match->end + step(text, match->end);
        continue;
      }
      found(match->begin, match->end);
      at = last_end = match->end;
    }
  }

 private:
  TokenPattern() = default;
  std::optional<Regex::Match> find(std::string_view text, size_t at) const;
  static size_t step(std::string_view text, size_t at);

  std::optional<Regex> regex_;
  std::string literal_;
};

}  // namespace nibble
