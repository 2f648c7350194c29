#pragma once
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace nibble {

// A compiled PCRE2 pattern (UTF-8, Unicode classes, JIT where the platform has it). Movable; matching is thread-safe.
class Regex {
 public:
  struct Match {
    size_t begin = 0;
    size_t end = 0;
  };

  // Throws Error(kUsage) with the position of the fault.
  explicit Regex(std::string_view pattern);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // The leftmost match at or after byte `start`. `text` must be valid UTF-8: it is not checked again.
  std::optional<Match> find(std::string_view text, size_t start = 0) const;
  // Does the pattern match at the start of `text` (Python's re.match)? `text` is checked; invalid UTF-8 does not match.
  bool matches_prefix(std::string_view text) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
