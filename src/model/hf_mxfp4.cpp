// MXFP4: quant_method "mxfp4" (gpt-oss), where NAME_blocks and NAME_scales stand for the tensor NAME, outputs before
// inputs; and the same numbers in compressed-tensors' files.
#include "model/hf_mxfp4.h"

#include "model/coded_tensor.h"
#include "model/hf_quantization.h"
#include "quant/mxfp4_weight.h"

namespace nibble {
namespace {

constexpr std::string_view kParts[] = {"_blocks", "_scales"};

StoredTensors read(HfCheckpoint checkpoint) {
  const DType dtype = model_dtype(checkpoint.config);
  return gather_modules(std::move(checkpoint.tensors), kParts,
                        [&](const std::string& name, const FindPart& find) -> std::unique_ptr<StoredTensor> {
                          if (find("_blocks") == nullptr) return nullptr;
                          auto weight = Mxfp4Weight::open({name, find}, "_blocks", "_scales");
                          Shape shape = weight.shape();
                          return std::make_unique<CodedTensor<Mxfp4Weight>>(name, std::move(shape), std::move(weight),
                                                                            dtype);
                        });
}

constexpr std::string_view kPackedFormat = "mxfp4-pack-quantized";
constexpr std::string_view kPackedParts[] = {".weight_packed", ".weight_scale"};

}  // namespace

bool is_packed_mxfp4(const Json& quantization) {
  const Json* format = find(quantization, "format");
  if (format == nullptr || *format != kPackedFormat) return false;
  if (const Json* groups = find(quantization, "config_groups"); groups != nullptr && groups->is_object())
    for (const Json& group : *groups)
      if (group.is_object() && find(group, "input_activations") != nullptr)
        throw Error(ErrorKind::kUnsupported,
                    cat("quantization_config: inputs quantized to MXFP4 ('input_activations' of ", kPackedFormat,
                        "); nibble runs the weights alone"));
  return true;
}

StoredTensors read_packed_mxfp4(HfCheckpoint checkpoint) {
  const DType dtype = model_dtype(checkpoint.config);
  return gather_modules(
      std::move(checkpoint.tensors), kPackedParts,
      [&](const std::string& module, const FindPart& find) -> std::unique_ptr<StoredTensor> {
        if (find(".weight_packed") == nullptr) return nullptr;
        return coded_tensor(module, Mxfp4Weight::open({module, find}, ".weight_packed", ".weight_scale"), dtype);
      });
}

extern const HfQuantization hf_quantization_mxfp4;
const HfQuantization hf_quantization_mxfp4 = {"mxfp4", read};

}  // namespace nibble
