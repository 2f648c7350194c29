#include "model/byte_level.h"

#include <array>

#include "model/token_text.h"

namespace nibble {
namespace {

struct Tables {
  std::array<char32_t, 256> to_char{};
  std::array<int, 0x144> to_byte{};                // -1: no byte
  std::array<std::array<char, 2>, 256> spelled{};  // UTF-8 of to_char
  std::array<unsigned char, 256> length{};

  Tables() {
    to_byte.fill(-1);
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
      const char32_t c = printable ? static_cast<char32_t>(byte) : next++;
      to_char[byte] = c;
      to_byte[c] = static_cast<int>(byte);
      std::string text;
      append_char(text, c);
      length[byte] = static_cast<unsigned char>(text.size());
      for (size_t i = 0; i < text.size(); ++i) spelled[byte][i] = text[i];
    }
  }
};

const Tables& tables() {
  static const Tables kTables;
  return kTables;
}

}  // namespace

char32_t byte_to_char(unsigned char byte) { return tables().to_char[byte]; }

void append_byte_level(std::string& out, std::string_view bytes) {
  const Tables& t = tables();
  const size_t start = out.size();
  out.resize(start + 2 * bytes.size());
  char* to = out.data() + start;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    to[0] = t.spelled[byte][0];
    if (t.length[byte] == 2) to[1] = t.spelled[byte][1];
    to += t.length[byte];
  }
  out.resize(static_cast<size_t>(to - out.data()));
}

std::optional<std::string> from_byte_level(std::string_view spelled) {
  const Tables& t = tables();
  std::string bytes;
  bytes.reserve(spelled.size());
  for (size_t at = 0; at < spelled.size();) {
    const char32_t c = next_char(spelled, at);
    if (c >= t.to_byte.size() || t.to_byte[c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(static_cast<unsigned char>(t.to_byte[c])));
  }
  return bytes;
}

}  // namespace nibble
