#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace nibble {

// The CRC-32 of zip and PNG (ISO 3309, reflected polynomial 0xEDB88320), for bytes that come in any order.
uint32_t crc32(std::span<const std::byte> bytes);

// What `bytes` add to the checksum of a longer message in which `following` bytes stand behind them: the checksum is
// the exclusive or of every piece's part and of crc32_start(size of the message). (Apart from its initial and final
// inversion, the checksum is linear over GF(2).)
uint32_t crc32_part(std::span<const std::byte> bytes, uint64_t following);
uint32_t crc32_start(uint64_t size);

}  // namespace nibble
