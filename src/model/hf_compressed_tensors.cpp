// quant_method "compressed-tensors", and "nibble", our extension of it.
#include <algorithm>

#include "model/coded_tensor.h"
#include "model/config.h"
#include "model/hf_mxfp4.h"
#include "model/hf_quantization.h"
#include "quant/compressed_config.h"
#include "quant/compressed_tensors.h"

namespace nibble {
namespace {

constexpr std::string_view kParts[] = {".weight_packed",     ".weight",       ".weight_scale",
                                       ".weight_zero_point", ".weight_shape", ".weight_g_idx",
                                       ".weight_min",        ".input_scale",  ".input_zero_point"};

// How many bits keys and values get is this engine's choice (--kv-cache), not the file's.
bool is_cache_scale(const NamedTensor& tensor) {
  constexpr std::string_view kSuffixes[] = {".k_scale", ".v_scale", ".k_zero_point", ".v_zero_point"};
  return std::any_of(std::begin(kSuffixes), std::end(kSuffixes),
                     [&](std::string_view suffix) { return tensor.name.ends_with(suffix); });
}

StoredTensors read(HfCheckpoint checkpoint) {
  if (is_packed_mxfp4(checkpoint.quantization)) return read_packed_mxfp4(std::move(checkpoint));
  const CompressedConfig quantization = parse_compressed_config(checkpoint.quantization);
  if (quantization.kv_cache) {
    checkpoint.notes.emplace_back("the file's kv_cache_scheme is left out: choose the cache's type with --kv-cache");
    std::erase_if(checkpoint.tensors, is_cache_scale);
  }
  const Architecture* architecture = nullptr;
  try {
    architecture = &architecture_of(checkpoint.config);
  } catch (const Error&) {
    // Only the name of a module's class is lost: everything then counts as linear.
  }
  const DType dtype = model_dtype(checkpoint.config);
  return gather_modules(
      std::move(checkpoint.tensors), kParts,
      [&](const std::string& module, const FindPart& find) -> std::unique_ptr<StoredTensor> {
        const auto find_part = [&](std::string_view suffix) { return find(cat(".", suffix)); };
        if (!CompressedWeight::present(find_part)) return nullptr;
        const bool embedding = architecture && role_of(*architecture, module + ".weight") == TensorRole::kEmbedding;
        const CompressedGroup* group = quantization.find(module, embedding ? "Embedding" : "Linear");
        if (!group)
          throw Error(
              ErrorKind::kCorrupt,
              cat(module, " is stored quantized, but no group of config.json's quantization_config targets it"));
        size_t more_bytes = 0;
        const ActivationSpec inputs = CompressedWeight::inputs(module, group->activations, find_part, more_bytes);
        return coded_tensor(module, CompressedWeight::open(module, group->weights, find_part), dtype, inputs,
                            more_bytes);
      });
}

}  // namespace

extern const HfQuantization hf_quantization_compressed_tensors, hf_quantization_nibble;
const HfQuantization hf_quantization_compressed_tensors = {"compressed-tensors", read};
const HfQuantization hf_quantization_nibble = {"nibble", read};

}  // namespace nibble
