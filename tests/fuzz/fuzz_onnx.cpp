#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "formats/onnx_model.h"

// Seeds: *.onnx

// Any bytes: an Error, or a graph whose initializers can be read to the last byte.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto model = nibble::OnnxModel::parse(std::as_bytes(std::span(data, size)), nullptr);
    unsigned sum = 0;
    for (const auto& initializer : model->graph().initializer()) {
      if (initializer.data_type() == nibble::onnx_type::kString) continue;
      for (const std::byte byte : model->tensor(initializer).bytes) sum += static_cast<unsigned>(byte);
    }
    volatile unsigned sink = sum;
    (void)sink;
  } catch (const nibble::Error&) {
  }
  return 0;
}
