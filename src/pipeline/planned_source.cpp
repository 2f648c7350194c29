#include "pipeline/planned_source.h"

#include <map>

#include "core/text.h"

namespace nibble {

void check_tensors(const Source& source, const ModelConfig& config) {
  for (const TensorRule& rule : config.architecture->tensors) {
    const bool in_block = rule.hf.find("{layer}") != std::string_view::npos;
    if (rule.slot == Slot::kLmHead && config.tied_embeddings) continue;
    const Shape shape = weight_shape(config, rule.slot);
    for (size_t layer = 0; layer < (in_block ? config.layers : 1); ++layer) {
      const StoredTensor& tensor =
          source.get(tensor_name(rule.hf, in_block ? std::optional(layer) : std::nullopt, false));
      if (tensor.shape() == shape) continue;
      throw Error(ErrorKind::kCorrupt, cat(source.path().string(), ": tensor ", tensor.name(), " is ",
                                           describe(tensor.shape()), ", but config.json makes it ", describe(shape)));
    }
  }
}

DType prevailing_dtype(const Source& source) {
  std::map<DType, size_t> counts;
  for (const auto& tensor : source.tensors())
    if (is_float(tensor->dtype())) counts[tensor->dtype()] += element_count(tensor->shape());
  DType best = DType::kF32;
  size_t most = 0;
  for (const auto& [dtype, count] : counts)
    if (count > most) best = dtype, most = count;
  return best == DType::kF64 ? DType::kF32 : best;
}

DType kept_dtype(const StoredTensor& tensor, std::optional<DType> wanted) {
  return wanted && is_float(tensor.dtype()) ? *wanted : tensor.dtype();
}

}  // namespace nibble
