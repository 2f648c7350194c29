// quant_method "compressed-tensors", and "nibble", our extension of it.
#include "model/coded_tensor.h"
#include "model/config.h"
#include "model/hf_mxfp4.h"
#include "model/hf_quantization.h"
#include "quant/compressed_config.h"
#include "quant/compressed_tensors.h"

namespace nibble {
namespace {

constexpr std::string_view kParts[] = {".weight_packed", ".weight",       ".weight_scale", ".weight_zero_point",
                                       ".weight_shape",  ".weight_g_idx", ".weight_min"};

StoredTensors read(HfCheckpoint checkpoint) {
  if (is_packed_mxfp4(checkpoint.quantization)) return read_packed_mxfp4(std::move(checkpoint));
  const CompressedConfig quantization = parse_compressed_config(checkpoint.quantization);
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
        return coded_tensor(module, CompressedWeight::open(module, group->weights, find_part), dtype,
                            group->activations);
      });
}

}  // namespace

extern const HfQuantization hf_quantization_compressed_tensors, hf_quantization_nibble;
const HfQuantization hf_quantization_compressed_tensors = {"compressed-tensors", read};
const HfQuantization hf_quantization_nibble = {"nibble", read};

}  // namespace nibble
