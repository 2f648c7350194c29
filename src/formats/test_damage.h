#pragma once
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "core/error.h"

namespace nibble {

// For tests: does parse(bytes) accept them? They are given in a buffer of exactly their size, so that a sanitizer sees
// any read past the end. Only Error may be thrown.
template <class Parse>
bool accepted(const Parse& parse, std::span<const std::byte> bytes) {
  const std::vector<std::byte> exact(bytes.begin(), bytes.end());
  try {
    parse(std::span<const std::byte>(exact));
    return true;
  } catch (const Error&) {
    return false;
  }
}

// For tests: how many of all single-bit changes of `original` parse() accepts.
template <class Parse>
size_t accepted_bit_flips(const Parse& parse, std::span<const std::byte> original) {
  std::vector<std::byte> bytes(original.begin(), original.end());
  size_t count = 0;
  for (std::byte& byte : bytes)
    for (int bit = 0; bit < 8; ++bit) {
      const std::byte mask{static_cast<unsigned char>(1 << bit)};
      byte ^= mask;
      count += accepted(parse, bytes);
      byte ^= mask;
    }
  return count;
}

}  // namespace nibble
