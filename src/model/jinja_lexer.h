#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::jinja {

struct Position {
  size_t line = 1;    // from 1
  size_t column = 1;  // from 1, in code points
};

enum class TokenKind {
  kData,
  kBlockBegin,
  kBlockEnd,
  kVariableBegin,
  kVariableEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;  // data and strings: what they stand for; else as written
  Position at;
};

// Splits a template into tokens, the last one kEnd. White space is handled as Jinja does with trim_blocks and
// lstrip_blocks set, which is how chat templates are rendered: a newline after a block tag or comment goes, and so do
// blanks before one that starts its line; "-" strips all white space on its side, "+" keeps it. Comments vanish; raw
// blocks become data. Throws Error(kUnsupported) for characters and escapes that are not known, Error(kCorrupt) for
// unterminated tags, strings and invalid UTF-8, both with line and column.
std::vector<Token> tokenize(std::string_view source);

// "line 3 column 7: "
std::string describe(Position at);

}  // namespace nibble::jinja
