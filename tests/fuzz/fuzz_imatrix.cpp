#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "formats/imatrix.h"

// Seeds: *.gguf *.imatrix

// Any bytes: an Error, or statistics whose every sum can be read.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const nibble::Imatrix imatrix = nibble::parse_imatrix(std::as_bytes(std::span(data, size)));
    double sum = 0;
    for (const auto& [name, entry] : imatrix.entries)
      for (const float value : entry.sums) sum += double{value} / (entry.tokens + 1);
    volatile double sink = sum;
    (void)sink;
  } catch (const nibble::Error&) {
  }
  return 0;
}
