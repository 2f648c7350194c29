#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "formats/gguf.h"

// Seeds: *.gguf

// Any bytes: an Error, or metadata and tensors whose every byte can be read.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto gguf = nibble::Gguf::parse(std::as_bytes(std::span(data, size)), nullptr);
    unsigned sum = 0;
    for (const auto& [key, value] : gguf->metadata()) {
      if (const auto* strings = std::get_if<nibble::GgufValue::Strings>(&value.data))
        for (const std::string_view text : *strings)
          for (const char c : text) sum += static_cast<unsigned char>(c);
      sum += static_cast<unsigned>(describe(value).size());
    }
    for (const nibble::GgufTensor& tensor : gguf->tensors())
      for (const std::byte byte : tensor.view.bytes) sum += static_cast<unsigned>(byte);
    volatile unsigned sink = sum;
    (void)sink;
  } catch (const nibble::Error&) {
  }
  return 0;
}
