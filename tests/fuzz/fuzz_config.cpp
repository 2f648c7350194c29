// config.json: parsed, and its model described. Only nibble::Error may come out.
// Seeds: models/*config.json
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "model/config.h"
#include "model/rope.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  try {
    const ModelConfig config = parse_config(parse_json({reinterpret_cast<const char*>(data), size}, "config.json"));
    for (const TensorRule& rule : config.architecture->tensors) weight_shape(config, rule.slot);
    rope_frequencies(config.rope);
  } catch (const Error&) {
  }
  return 0;
}
