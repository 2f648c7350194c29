#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "quant/transposed_weight.h"

// config.json's `quantization_config` with quant_method "gptq", "awq" or "auto-round", and quantize_config.json.
// Sources: GPTQModel 7.7, AutoRound 0.16, AutoAWQ 0.2.
namespace nibble {

// What some modules have of their own.
struct TransposedException {
  std::string
      pattern;  // GPTQ's "dynamic": Python's re.match on the module's name. AutoRound's extra_config: also a name
  bool quantized = true;  // false: these modules are left alone
  std::optional<int> bits{};
  std::optional<size_t> group{};
  std::optional<bool> symmetric{};
};

struct TransposedConfig {
  TransposedFormat linears;
  std::vector<TransposedException> exceptions{};  // the first match wins
  bool act_order = false;                         // "desc_act": columns have groups of their own
  bool lm_head = false;                           // is quantized too
  std::vector<std::string> kept{};                // AWQ's modules_to_not_convert

  // How a module that is stored quantized is stored. Patterns are compiled on each call.
  TransposedFormat format_of(std::string_view module) const;
};

// Throws Error(kCorrupt) for what contradicts itself and Error(kUnsupported) for what nibble cannot run (other packings
// or versions), each naming the key. Ordered, since the order of "dynamic" counts.
TransposedConfig parse_transposed_config(const OrderedJson& quantization_config);
OrderedJson to_json(const TransposedConfig& config);

}  // namespace nibble
