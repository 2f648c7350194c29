#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "formats/pickle.h"
#include "formats/torch_checkpoint.h"

// Seeds: torch/*.bin

// Any bytes, as a checkpoint and as a bare pickle: an Error, or tensors whose every byte can be read.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    unsigned sum = 0;
    for (const nibble::NamedTensor& tensor : nibble::parse_torch_checkpoint(bytes, nullptr))
      for (const std::byte byte : tensor.view.bytes) sum += static_cast<unsigned>(byte);
    volatile unsigned sink = sum;
    (void)sink;
  } catch (const nibble::Error&) {
  }
  try {
    nibble::parse_pickle(bytes, [](std::string_view) { return true; });
  } catch (const nibble::Error&) {
  }
  return 0;
}
