#pragma once
#include <optional>
#include <string>
#include <string_view>

// GPT-2's reversible spelling of arbitrary bytes as printable characters (Radford et al. 2019): printable Latin-1 bytes
// stand for themselves, the other 68 for U+0100, U+0101, ... in order.
namespace nibble {

// Code point of byte value `byte`, < 0x144.
char32_t byte_to_char(unsigned char byte);
// Appends `bytes` spelled out; at most two bytes for each.
void append_byte_level(std::string& out, std::string_view bytes);
// The bytes that `spelled` stands for; nothing when one of its characters stands for no byte.
std::optional<std::string> from_byte_level(std::string_view spelled);

}  // namespace nibble
