#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "quant/spec.h"

// config.json's `quantization_config`: which module is stored how. Schema: compressed-tensors 0.20; with quant_method
// "nibble" the same keys, where weights.type may also be "nf4", "fp4", "iq4_nl" or "fp4_bnb" and weights.mins may be
// true.
namespace nibble {

struct CompressedGroup {
  std::vector<std::string>
      targets;                 // module names, "re:PATTERN" (Python's re.match on the name), or class names ("Linear")
  QuantSpec weights;           // scale_dtype is not stored (the tensors say it), nor is full_range
  ActivationSpec activations;  // without a static scale, which is a tensor of each module
  std::string format;          // "pack-quantized", ...; see compressed_format()
};

struct CompressedConfig {
  bool nibble_method = false;  // quant_method "nibble" instead of "compressed-tensors"
  std::vector<CompressedGroup> groups{};
  std::vector<std::string> ignore{};  // like targets; these modules are not quantized
  // "kv_cache_scheme": the engine is to keep keys and values in few bits too, with scales that are tensors k_scale and
  // v_scale of each attention. Read whatever it says; written as cache_scheme().
  bool kv_cache = false;

  // The group of a module, null when it is not quantized. `class_name`: "Linear" or "Embedding". Precedence as in
  // compressed-tensors: exact names, then patterns, then classes; `ignore` beats all. Patterns are compiled on each
  // call: look a module up once.
  const CompressedGroup* find(std::string_view module, std::string_view class_name) const;
};

// The form of keys and values that is written: E4M3, one scale for all tokens and heads of a layer.
ActivationSpec cache_scheme();

// Throws Error(kCorrupt) for what contradicts the schema and Error(kUnsupported) for what nibble cannot run (other
// quant_methods, static activations with several scales, grouped activations, block strategies, NVFP4, MX formats,
// sparsity, output activations), each naming the key.
CompressedConfig parse_compressed_config(const Json& json);
OrderedJson to_json(const CompressedConfig& config);

}  // namespace nibble
