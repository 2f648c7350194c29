#include "core/text.h"
#include "model/config.h"
#include "pipeline/plan.h"
#include "pipeline/planned_source.h"
#include "pipeline/requantize.h"

namespace nibble {
namespace {

// Codes that the format cannot hold: rounded anew where that is allowed, or floats.
void change_form(PlannedTensor& planned, const ExporterEntry& format, const std::string& obstacle, bool allowed) {
  if (!allowed)
    throw Error(ErrorKind::kUsage, cat(obstacle, "; with --allow-requantize, what ", format.name,
                                       " cannot hold is rounded anew or dequantized"));
  planned.fallback = obstacle;
  if (const auto form = nearest_form(format, output_tensor(planned, &format))) {
    planned.action = PlannedTensor::Action::kQuantize;
    planned.spec = form->spec;
    planned.activations = form->activations;
    planned.algorithm = "search";
    planned.reason = "quantized again";
  } else {
    planned.action = PlannedTensor::Action::kFloat;
    planned.spec.reset();
    planned.activations = {};
    planned.reason = "dequantized";
  }
}

}  // namespace

QuantizePlan make_convert_plan(const Source& source, std::optional<DType> dtype, const ExporterEntry& format,
                               bool allow_requantize) {
  const ModelConfig config = parse_config(source.config());
  check_tensors(source, config);
  QuantizePlan plan;
  plan.dtype = dtype.value_or(prevailing_dtype(source));
  plan.tied_embeddings = config.tied_embeddings;
  plan.warnings = source.notes();
  size_t requantized = 0;
  for (const auto& tensor : source.tensors()) {
    PlannedTensor planned;
    planned.source = tensor.get();
    planned.name = tensor->name();
    planned.role = role_of(*config.architecture, tensor->name());
    // GGUF's vectors are F32 whatever the matrices are: nothing is rounded on the way.
    planned.dtype = kept_dtype(*tensor, format.blocks && tensor->shape().size() < 2 ? std::nullopt : dtype);
    planned.reason = tensor->spec() ? "dequantized" : "as in the source";
    if (planned.role == TensorRole::kEmbedding) plan.embedding = planned.name;
    if (planned.role == TensorRole::kLmHead && plan.tied_embeddings) {
      plan.warnings.push_back(cat(tensor->name(), " is left out: config.json ties it to the embedding"));
      continue;
    }
    const bool keeps = format.keeps_codes && !(format.blocks && dtype);  // GGUF's float types are types like any other
    if (keeps && tensor->block_type() && format.blocks) {
      planned.action = PlannedTensor::Action::kMoveBlocks;
      planned.spec = tensor->spec();
      planned.reason = "blocks unchanged";
    } else if (keeps && tensor->spec()) {
      planned.action = PlannedTensor::Action::kMoveCodes;
      planned.spec = tensor->spec();
      planned.activations = tensor->activations();
      planned.reason = "codes unchanged";
      if (const auto why = obstacle(format, output_tensor(planned, &format)))
        change_form(planned, format, *why, allow_requantize);
    }
    requantized += planned.action == PlannedTensor::Action::kQuantize ? 1 : 0;
    plan.parameters += element_count(tensor->shape());
    plan.tensors.push_back(std::move(planned));
  }
  if (requantized > 0) {
    plan.algorithms["search"] = std::make_unique<const AlgorithmChain>("search", plan.settings);
    plan.warnings.push_back(cat(requantized, " tensors are in a form that ", format.name,
                                " cannot hold and are quantized again: errors add up; prefer the original model"));
  }
  add_sizes(plan, &format);
  if (format.check_model != nullptr) format.check_model(output_model(source, plan, format));
  return plan;
}

}  // namespace nibble
