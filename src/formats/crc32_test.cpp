#include "formats/crc32.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string_view>
#include <vector>

namespace nibble {
namespace {

// The standard's own check value.
TEST(Crc32, HasTheCheckValue) {
  const std::string_view digits = "123456789";
  EXPECT_EQ(crc32(std::as_bytes(std::span(digits))), 0xCBF43926u);
  EXPECT_EQ(crc32({}), 0u);
  EXPECT_EQ(crc32_start(0), 0u);
}

TEST(Crc32, PiecesInAnyOrderGiveTheWhole) {
  std::vector<std::byte> bytes(1000);
  unsigned state = 1;
  for (std::byte& byte : bytes) byte = static_cast<std::byte>((state = state * 1664525u + 1013904223u) >> 24);
  const std::span<const std::byte> all = bytes;
  for (const size_t size : {0u, 1u, 7u, 8u, 9u, 500u, 1000u}) {
    const auto message = all.first(size);
    for (const size_t cut : {size_t{0}, size / 3, size / 2, size}) {
      const uint32_t second = crc32_part(message.subspan(cut), 0), first = crc32_part(message.first(cut), size - cut);
      EXPECT_EQ(crc32_start(size) ^ second ^ first, crc32(message)) << size << " at " << cut;
    }
  }
}

}  // namespace
}  // namespace nibble
