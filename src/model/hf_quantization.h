#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "formats/named_tensor.h"
#include "model/source.h"

// How quantized Hugging Face checkpoints keep their weights: one file and one line of hf_quantizations.def for each
// `quant_method`.
namespace nibble {

// A checkpoint as its files have it.
struct HfCheckpoint {
  const Json& config;                // config.json without quantization_config
  const Json& quantization;          // quantization_config, an object
  const OrderedJson& ordered;        // the same, keys in the order of the file, where that counts
  std::vector<NamedTensor> tensors;  // in file order
  std::vector<std::string>& notes;   // gets what of the checkpoint is not read, for people
};

using StoredTensors = std::vector<std::unique_ptr<StoredTensor>>;

struct HfQuantization {
  std::string_view method;  // quantization_config's quant_method
  // The logical tensors, each in the place of its first part. Throws Error(kCorrupt or kUnsupported) that begins with
  // the key of config.json or with the tensor.
  StoredTensors (*read)(HfCheckpoint checkpoint);
};

// The method of a quantization_config; throws Error(kUnsupported) naming it and those that are known.
const HfQuantization& find_hf_quantization(const Json& quantization);

// A tensor that is what its file says.
std::unique_ptr<StoredTensor> plain_tensor(NamedTensor tensor);

// Gives the tensor MODULE + SUFFIX of the file, or null.
using FindPart = std::function<const TensorView*(std::string_view suffix)>;
// Makes one logical tensor of a module's parts; null when the module is not quantized, and its parts stay as they are.
using OpenModule = std::function<std::unique_ptr<StoredTensor>(const std::string& module, const FindPart& find)>;

// Every tensor whose name ends with one of `suffixes` (".weight_packed", "_blocks"; the longest that fits) is offered
// to `open` as a part of the module whose name is what stands before; the others are plain.
StoredTensors gather_modules(std::vector<NamedTensor> stored, std::span<const std::string_view> suffixes,
                             const OpenModule& open);

// The type that a quantized module's floats would have: what config.json calls the model's type.
DType model_dtype(const Json& config);

}  // namespace nibble
