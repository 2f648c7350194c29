#pragma once
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace nibble {

// Concatenates anything streamable: cat("layer ", 3) == "layer 3".
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

enum class ErrorKind {
  kUsage,        // the request cannot be satisfied as asked
  kCorrupt,      // the bytes contradict their own format
  kUnsupported,  // valid input, not handled here
  kIo,           // the operating system said no
  kInterrupted,  // the user asked to stop
  kGate,         // a requested quality gate failed
};

// The only exception type thrown by this code base. Context is added while the stack unwinds, innermost first.
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message) : kind_(kind), text_(std::move(message)) {}
  ErrorKind kind() const noexcept { return kind_; }
  const char* what() const noexcept override { return text_.c_str(); }
  void add_context(std::string_view where) { text_ = cat(where, ": ", text_); }

 private:
  ErrorKind kind_;
  std::string text_;
};

// Runs `body`; an Error leaving it is prefixed with `where()`, which is only evaluated on failure.
template <class Where, class Body>
decltype(auto) with_context(Where&& where, Body&& body) {
  try {
    return body();
  } catch (Error& error) {
    error.add_context(where());
    throw;
  }
}

// kIo error for the failed call that set `errno_value`: "what: No space left on device".
Error io_error(std::string_view what, int errno_value);

}  // namespace nibble
