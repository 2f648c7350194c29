#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "formats/npz.h"

// Seeds: *.npz

// Any bytes: an Error, or arrays that can be read to the last byte.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    unsigned sum = 0;
    for (const auto& [name, view] : nibble::parse_npz(std::as_bytes(std::span(data, size))))
      for (const std::byte byte : view.bytes) sum += static_cast<unsigned>(byte);
    volatile unsigned sink = sum;
    (void)sink;
  } catch (const nibble::Error&) {
  }
  return 0;
}
