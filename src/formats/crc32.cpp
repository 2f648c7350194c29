#include "formats/crc32.h"

#include <array>
#include <bit>
#include <cstring>

namespace nibble {
namespace {

constexpr uint32_t kPolynomial = 0xEDB88320u;
constexpr size_t kLanes = 8;  // bytes that one step takes

// tables[k][b]: the register after byte b and k zero bytes, begun with 0.
using Tables = std::array<std::array<uint32_t, 256>, kLanes>;

constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t value = b;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1u) != 0 ? kPolynomial : 0u);
    tables[0][b] = value;
  }
  for (size_t k = 1; k < kLanes; ++k)
    for (size_t b = 0; b < 256; ++b) {
      const uint32_t before = tables[k - 1][b];
      tables[k][b] = (before >> 8) ^ tables[0][before & 255u];
    }
  return tables;
}

constexpr Tables kTables = make_tables();

uint32_t advance(uint32_t state, std::span<const std::byte> bytes) {
  static_assert(std::endian::native == std::endian::little);
  const std::byte* p = bytes.data();
  size_t left = bytes.size();
  for (; left >= kLanes; left -= kLanes, p += kLanes) {
    uint64_t word;
    std::memcpy(&word, p, sizeof word);
    word ^= state;
    state = 0;
    for (size_t k = 0; k < kLanes; ++k) state ^= kTables[kLanes - 1 - k][(word >> (8 * k)) & 255u];
  }
  for (; left > 0; --left, ++p) state = (state >> 8) ^ kTables[0][(state ^ static_cast<uint32_t>(*p)) & 255u];
  return state;
}

// Product of two polynomials modulo the checksum's; the highest bit is the constant term.
uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (; a != 0; a <<= 1) {
    if ((a & 0x80000000u) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1u) != 0 ? kPolynomial : 0u);
  }
  return product;
}

// The register after `count` zero bytes: times x^(8 count).
uint32_t shift(uint32_t state, uint64_t count) {
  uint32_t power = 0x00800000u;  // x^8
  for (; count != 0; count >>= 1) {
    if ((count & 1u) != 0) state = multiply(state, power);
    power = multiply(power, power);
  }
  return state;
}

}  // namespace

uint32_t crc32(std::span<const std::byte> bytes) { return ~advance(~0u, bytes); }

uint32_t crc32_part(std::span<const std::byte> bytes, uint64_t following) {
  return shift(advance(0, bytes), following);
}

uint32_t crc32_start(uint64_t size) { return ~shift(~0u, size); }

}  // namespace nibble
