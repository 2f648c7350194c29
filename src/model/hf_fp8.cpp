// quant_method "fp8" (DeepSeek-V3, transformers: a scale for each block, or one) and "fbgemm_fp8" (a scale for each
// row). Their inputs are quantized by whoever runs them; nibble computes with the weights' values and float inputs.
#include "model/coded_tensor.h"
#include "model/hf_quantization.h"
#include "quant/fp8_weight.h"

namespace nibble {
namespace {

constexpr std::string_view kParts[] = {".weight",      ".weight_scale_inv", ".weight_scale",
                                       ".input_scale", ".activation_scale", ".input_scale_ub"};

std::optional<Fp8Weight::Block> block_size(const Json& quantization) {
  const Json* block = find(quantization, "weight_block_size");
  if (block == nullptr) return std::nullopt;
  const auto extent = [&](size_t i) {
    const Json& value = (*block)[i];
    if (!value.is_number_unsigned() || value.get<size_t>() == 0)
      throw Error(ErrorKind::kCorrupt, "'weight_block_size' should be two numbers");
    return value.get<size_t>();
  };
  if (!block->is_array() || block->size() != 2)
    throw Error(ErrorKind::kCorrupt, "'weight_block_size' should be two numbers");
  return Fp8Weight::Block{extent(0), extent(1)};
}

StoredTensors read(HfCheckpoint checkpoint) {
  const auto block =
      with_context([] { return "quantization_config"; },
                   [&] {
                     if (const auto format = find_string(checkpoint.quantization, "fmt"); format && *format != "e4m3")
                       throw Error(ErrorKind::kUnsupported, cat("'fmt' \"", *format, "\"; nibble reads e4m3"));
                     return block_size(checkpoint.quantization);
                   });
  const DType dtype = model_dtype(checkpoint.config);
  return gather_modules(std::move(checkpoint.tensors), kParts,
                        [&](const std::string& module, const FindPart& find) -> std::unique_ptr<StoredTensor> {
                          const StoredParts parts{module, find};
                          if (!Fp8Weight::present(parts)) return nullptr;
                          const bool inverse = find(".weight_scale_inv") != nullptr;
                          const std::string_view scales = inverse ? ".weight_scale_inv" : ".weight_scale";
                          return coded_tensor(module, Fp8Weight::open(parts, scales, block), dtype);
                        });
}

}  // namespace

extern const HfQuantization hf_quantization_fp8, hf_quantization_fbgemm_fp8;
const HfQuantization hf_quantization_fp8 = {"fp8", read};
const HfQuantization hf_quantization_fbgemm_fp8 = {"fbgemm_fp8", read};

}  // namespace nibble
