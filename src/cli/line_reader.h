#pragma once
#include <optional>
#include <string>

namespace nibble::cli {

// Lines of standard input. Unlike std::getline it comes back when Ctrl-C is pressed.
class LineReader {
 public:
  // The next line without its newline; nothing at the end of the input and when the user interrupts.
  std::optional<std::string> next();

 private:
  std::string buffer_;
  bool ended_ = false;
};

// All of standard input. Throws Error(kIo).
std::string read_standard_input();

}  // namespace nibble::cli
