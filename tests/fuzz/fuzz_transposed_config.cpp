// quantization_config of GPTQ, AWQ and AutoRound: parsed, looked up, written again. Only nibble::Error may come out.
// Seeds: quant/*_quantize_config.json
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "quant/transposed_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    parse_json(text, "fuzz");
    const TransposedConfig config = parse_transposed_config(OrderedJson::parse(text));
    config.format_of("model.layers.0.mlp.up_proj");
    parse_transposed_config(to_json(config));
  } catch (const Error&) {
  }
  return 0;
}
