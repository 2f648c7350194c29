#pragma once
#include <cstddef>
#include <string>
#include <string_view>

// The character classes and UTF-8 steps that tokenizers are defined with. Inputs are valid UTF-8 unless said otherwise.
namespace nibble {

// The code point that starts at byte `at`, which moves past it.
char32_t next_char(std::string_view text, size_t& at);
void append_char(std::string& out, char32_t c);
// Bytes of the character whose first byte is `first`.
size_t char_length(char first);
size_t count_chars(std::string_view text);

bool is_white_space(char32_t c);  // Unicode's White_Space
bool is_numeric(char32_t c);      // general categories Nd, Nl, No
bool is_punctuation(char32_t c);  // ASCII punctuation (symbols such as + and $ included) or a general category P*
bool is_mark(char32_t c);         // general categories M*
bool is_word(char32_t c);         // \w of UTS 18: alphabetic, marks, decimal digits, connectors, join controls

// `bytes` with every maximal ill-formed part replaced by U+FFFD (Unicode 15, section 3.9, as the WHATWG decoder does).
std::string replace_invalid_utf8(std::string_view bytes);

}  // namespace nibble
