#include "cli/line_reader.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "core/error.h"
#include "core/interrupt.h"

namespace nibble::cli {
namespace {

// More bytes into `buffer`; false at the end of the input or when interrupted.
bool read_more(std::string& buffer) {
  std::array<char, 4096> block;
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, block.data(), block.size());
    if (n > 0) {
      buffer.append(block.data(), static_cast<size_t>(n));
      return true;
    }
    if (n == 0) return false;
    if (errno != EINTR) throw io_error("standard input", errno);
    if (interrupted()) return false;
  }
}

}  // namespace

std::optional<std::string> LineReader::next() {
  size_t end = buffer_.find('\n');
  while (end == std::string::npos && !ended_) {
    const size_t searched = buffer_.size();
    if (!read_more(buffer_)) {
      if (interrupted()) return std::nullopt;
      ended_ = true;
    }
    end = buffer_.find('\n', searched);
  }
  if (end == std::string::npos) {
    if (buffer_.empty()) return std::nullopt;
    return std::exchange(buffer_, {});
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

std::string read_standard_input() {
  std::string text;
  while (read_more(text)) {
  }
  check_interrupted();
  return text;
}

}  // namespace nibble::cli
