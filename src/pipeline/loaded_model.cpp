#include "pipeline/loaded_model.h"

#include <algorithm>

#include "core/random.h"
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

// Where activations are massive, they are so at the first token of a text already; the others are seeded noise.
std::vector<ProductCheck> check_compute(Model& model) {
  constexpr size_t kTokens = 16;
  constexpr double kTolerance = 0.05;  // of an output's norm; about ten times what int8 usually costs
  Random random(0);
  std::vector<TokenId> tokens(std::min(kTokens, model.config().max_positions));
  for (TokenId& token : tokens)
    token = static_cast<TokenId>(random.uniform() * static_cast<double>(model.config().vocab_size));
  return model.check_products(tokens, kTolerance);
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
  loaded.warnings = loaded.source->notes();
  LoadOptions options;
  options.dtype = choices.dtype;
  if (const auto request = quantization(choices)) {
    const QuantizePlan plan = make_plan(*loaded.source, *request, nullptr);
    loaded.totals = {plan.parameters, plan.bytes_after};
    options = quantize_on_load(*loaded.source, *request, &loaded.warnings, progress);
  }
  options.compute = choices.compute;
  options.copy_dense = choices.copy_dense;
  loaded.model = Model::load(*loaded.source, options, progress);
  if (choices.check_compute) loaded.checks = check_compute(*loaded.model);
  return loaded;
}

}  // namespace nibble
