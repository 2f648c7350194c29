#include "pipeline/loaded_model.h"

#include "model/load_tokenizer.h"
#include "pipeline/on_the_fly.h"
#include "pipeline/plan.h"
#include "pipeline/torchchat.h"

namespace nibble {
namespace {

std::optional<QuantizeRequest> quantization(const ModelChoices& choices) {
  if (choices.scheme.empty() && choices.quant.empty()) return std::nullopt;
  QuantizeRequest request;
  if (!choices.scheme.empty()) request.scheme = choices.scheme;
  if (!choices.quant.empty()) apply_torchchat(std::string_view(choices.quant), request);
  if (choices.dtype) request.dtype = choices.dtype;
  return request;
}

}  // namespace

WeightTotals count_weights(const Source& source) {
  const auto tied = find_bool(source.config(), "tie_word_embeddings");
  WeightTotals totals;
  for (const auto& tensor : source.tensors()) {
    if (tied.value_or(false) && tensor->name() == "lm_head.weight")
      continue;  // some writers store the tied matrix twice
    totals.parameters += element_count(tensor->shape());
    totals.bytes += tensor->bytes();
  }
  return totals;
}

void LoadedModel::need_tokenizer() const {
  if (tokenizer) return;
  throw Error(ErrorKind::kUsage,
              cat(source->path().string(),
                  " has no tokenizer (tokenizer.json or tokenizer.model): only token ids can be used with it"));
}

LoadedModel load_model(const std::filesystem::path& path, const ModelChoices& choices, Progress& progress) {
  LoadedModel loaded;
  loaded.source = Source::open(path);
  loaded.tokenizer = find_tokenizer(path);
  loaded.totals = count_weights(*loaded.source);
  LoadOptions options;
  options.dtype = choices.dtype;
  if (const auto request = quantization(choices)) {
    const QuantizePlan plan = make_plan(*loaded.source, *request, nullptr);
    loaded.totals = {plan.parameters, plan.bytes_after};
    options = quantize_on_load(*loaded.source, *request, &loaded.warnings);
  }
  options.compute = choices.compute;
  options.copy_dense = choices.copy_dense;
  loaded.model = Model::load(*loaded.source, options, progress);
  return loaded;
}

}  // namespace nibble
