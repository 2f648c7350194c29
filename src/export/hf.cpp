// `hf`: a Hugging Face folder with packed weights in the compressed-tensors schema, or quant_method "nibble" where that
// schema has no words for a weight.
#include <algorithm>

#include "export/encoded_folder.h"
#include "export/float_bytes.h"
#include "quant/compressed_config.h"
#include "quant/compressed_tensors.h"

namespace nibble {
namespace {

void check(const OutputTensor& tensor) {
  if (!tensor.spec) return;
  if (!tensor.name.ends_with(kWeightSuffix) || tensor.shape.size() != 2)
    throw Error(
        ErrorKind::kUsage,
        cat(tensor.name, ": only two-dimensional .weight tensors can be stored quantized; keep it with --skip"));
  const std::string_view layout = compressed_format(*tensor.spec, tensor.activations);
  if (tensor.grouped_columns && layout != "pack-quantized")
    throw Error(ErrorKind::kUsage, cat(tensor.name, ": ", layout,
                                       " codes have no order of columns (act-order): try a "
                                       "scheme without quantized inputs, or --format fake"));
}

size_t stored_bytes(const OutputTensor& tensor) {
  if (!tensor.spec) return byte_size(tensor.dtype, element_count(tensor.shape));
  return compressed_bytes(*tensor.spec, tensor.activations, tensor.rows(), tensor.cols(), tensor.grouped_columns);
}

// Static scales are tensors: the configuration does not say them.
ActivationSpec scheme_of(ActivationSpec activations) {
  activations.scale = 0;
  activations.zero = 0;
  return activations;
}

// What one entry of config_groups says; two weights that differ only in the dtype of their scales share it.
bool same_group(const CompressedGroup& group, const OutputTensor& tensor) {
  QuantSpec spec = *tensor.spec;
  spec.scale_dtype = group.weights.scale_dtype;
  spec.full_range = group.weights.full_range;
  return spec == group.weights && scheme_of(tensor.activations) == group.activations;
}

CompressedConfig describe_groups(const OutputModel& model) {
  CompressedConfig config;
  config.kv_cache = !model.cache_scales.empty();
  std::vector<size_t> linears;  // in each group: those that the class "Linear" stands for
  for (const OutputTensor& tensor : model.tensors) {
    const std::string module = tensor.name.ends_with(kWeightSuffix) ? module_of(tensor.name) : "";
    const bool embedding = tensor.name == model.embedding;
    if (!tensor.spec) {
      if (!module.empty() && tensor.shape.size() == 2 && !embedding) config.ignore.push_back(module);
      continue;
    }
    config.nibble_method |=
        tensor.grouped_columns || schema_obstacle(*tensor.spec, tensor.activations, tensor.cols()).has_value();
    auto group = std::find_if(config.groups.begin(), config.groups.end(),
                              [&](const CompressedGroup& g) { return same_group(g, tensor); });
    if (group == config.groups.end()) {
      config.groups.push_back({{},
                               *tensor.spec,
                               scheme_of(tensor.activations),
                               std::string(compressed_format(*tensor.spec, tensor.activations))});
      linears.push_back(0);
      group = config.groups.end() - 1;
    }
    group->targets.push_back(module);
    if (!embedding) ++linears[static_cast<size_t>(group - config.groups.begin())];
  }
  // A tied head has no tensor of its own, but readers meet its module.
  if (model.tied_embeddings) config.ignore.emplace_back("lm_head");
  // The most frequent scheme is that of every Linear not named elsewhere. An embedding is no Linear and is always
  // named.
  const auto most = std::max_element(linears.begin(), linears.end());
  if (most != linears.end() && *most > 0) {
    CompressedGroup& group = config.groups[static_cast<size_t>(most - linears.begin())];
    const std::string embedding = model.embedding.empty() ? "" : module_of(model.embedding);
    const bool named = std::find(group.targets.begin(), group.targets.end(), embedding) != group.targets.end();
    group.targets = {"Linear"};
    if (named) group.targets.push_back(embedding);
    // Some readers take what the first group says for granted in all of them.
    std::rotate(config.groups.begin(), config.groups.begin() + (most - linears.begin()),
                config.groups.begin() + (most - linears.begin()) + 1);
  }
  return config;
}

EncodedFolder<CompressedEncoder>::Encoding encode(const OutputTensor& tensor) {
  EncodedFolder<CompressedEncoder>::Encoding encoding;
  for (const CompressedSlot& slot :
       compressed_slots(*tensor.spec, tensor.activations, tensor.rows(), tensor.cols(), tensor.grouped_columns))
    encoding.slots.push_back({cat(module_of(tensor.name), ".", slot.suffix), slot.dtype, slot.shape});
  encoding.make = [&tensor] {
    return std::make_unique<CompressedEncoder>(*tensor.spec, tensor.activations, tensor.rows(), tensor.cols(),
                                               tensor.grouped_columns);
  };
  return encoding;
}

std::unique_ptr<Exporter> make(const std::filesystem::path& out, bool force, OutputModel model) {
  for (const OutputTensor& tensor : model.tensors) check(tensor);
  const auto describe = [](const OutputModel& written, OrderedJson& config) {
    const CompressedConfig groups = describe_groups(written);
    if (!groups.groups.empty()) config["quantization_config"] = to_json(groups);
    return std::map<std::string, std::string>{};
  };
  EncodedFolder<CompressedEncoder>::Contents contents{encode, describe};
  for (const auto& [name, scale] : model.cache_scales)
    contents.constants.push_back({{name, model.dtype, {1}}, float_bytes({&scale, 1}, model.dtype)});
  return std::make_unique<EncodedFolder<CompressedEncoder>>(out, force, std::move(model), std::move(contents));
}

}  // namespace

extern const ExporterEntry exporter_hf;
const ExporterEntry exporter_hf = {
    .name = "hf",
    .summary = "Hugging Face folder, compressed-tensors schema (default)",
    .folder = true,
    .keeps_codes = true,
    .check = check,
    .stored_bytes = stored_bytes,
    .make = make,
    .cache_scales = true,
};

}  // namespace nibble
