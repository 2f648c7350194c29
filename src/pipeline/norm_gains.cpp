#include "pipeline/norm_gains.h"

#include <initializer_list>

namespace nibble {
namespace {

struct Behind {
  Slot norm;
  std::initializer_list<Slot> linears;
};

}  // namespace

std::map<std::string, InputFactor, std::less<>> norm_gains(const Source& source, const ModelConfig& config) {
  std::map<std::string, InputFactor, std::less<>> gains;
  const Behind stages[] = {{Slot::kAttentionNorm, {Slot::kQuery, Slot::kKey, Slot::kValue}},
                           {Slot::kMlpNorm, {Slot::kGate, Slot::kUp}}};
  for (const Behind& stage : stages) {
    const TensorRule* rule = config.architecture->find(stage.norm);
    for (size_t layer = 0; rule != nullptr && layer < config.layers; ++layer) {
      const StoredTensor* norm = source.find(tensor_name(rule->hf, layer, false));
      if (norm == nullptr) continue;
      InputFactor factor;
      factor.cols = element_count(norm->shape());
      factor.importance.resize(factor.cols);
      norm->read_rows(0, norm->rows(), factor.importance.data());
      for (float& gain : factor.importance) gain *= gain;
      for (const Slot slot : stage.linears)
        if (const TensorRule* linear = config.architecture->find(slot))
          gains[tensor_name(linear->hf, layer, false)] = factor;
    }
  }
  return gains;
}

}  // namespace nibble
