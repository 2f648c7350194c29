#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "formats/safetensors.h"

// Seeds: *.safetensors

// Any bytes: an Error, or tensors whose every byte can be read.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto file = nibble::SafeTensorsFile::parse(std::as_bytes(std::span(data, size)), nullptr);
    unsigned sum = 0;
    for (const nibble::SafeTensor& tensor : file.tensors)
      for (const std::byte byte : tensor.view.bytes) sum += static_cast<unsigned>(byte);
    volatile unsigned sink = sum;
    (void)sink;
  } catch (const nibble::Error&) {
  }
  return 0;
}
