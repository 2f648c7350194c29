// `gptq` and `awq`: Hugging Face folders in the layouts of GPTQModel and AutoAWQ, which store linears transposed.
#include <algorithm>
#include <array>

#include "export/encoded_folder.h"
#include "quant/transposed_config.h"
#include "quant/transposed_weight.h"

namespace nibble {
namespace {

using Folder = EncodedFolder<TransposedEncoder>;

// Which of a family's layouts a model gets.
enum class Choice : uint8_t {
  kGptq,  // version 1 if everything is symmetric, else 2: readers of version 1 disagree about zero points
  kGptqV1,
  kGptqV2,
  kAwq,
};

// The layout in which one tensor alone has the fewest obstacles.
TransposedLayout tensor_layout(Choice choice) {
  switch (choice) {
    case Choice::kGptqV1:
      return TransposedLayout::kGptqV1;
    case Choice::kAwq:
      return TransposedLayout::kAwq;
    default:
      return TransposedLayout::kGptqV2;
  }
}

TransposedLayout model_layout(Choice choice, const OutputModel& model) {
  if (choice != Choice::kGptq) return tensor_layout(choice);
  const bool symmetric = std::all_of(model.tensors.begin(), model.tensors.end(),
                                     [](const OutputTensor& tensor) { return !tensor.spec || tensor.spec->symmetric; });
  return symmetric ? TransposedLayout::kGptqV1 : TransposedLayout::kGptqV2;
}

template <Choice choice>
void check(const OutputTensor& tensor) {
  if (!tensor.spec) return;
  const auto refuse = [&](const std::string& why) { throw Error(ErrorKind::kUsage, cat(tensor.name, ": ", why)); };
  if (!tensor.name.ends_with(kWeightSuffix) || tensor.shape.size() != 2)
    refuse("only two-dimensional .weight tensors can be stored quantized; keep it with --skip");
  const std::string_view title = choice == Choice::kAwq ? "AWQ" : "GPTQ";
  if (tensor.role == TensorRole::kEmbedding)
    refuse(cat(title, " has no quantized embeddings: leave out --embedding, or try --format hf"));
  if (choice == Choice::kAwq && tensor.role == TensorRole::kLmHead)
    refuse("readers of AWQ want a plain lm_head: leave out --lm-head, or try --format gptq");
  if (const auto obstacle = transposed_obstacle(tensor_layout(choice), *tensor.spec, tensor.activations, tensor.rows(),
                                                tensor.cols(), tensor.grouped_columns))
    refuse(*obstacle);
}

// AWQ's configuration has one group size.
void check_awq_model(const OutputModel& model) {
  const OutputTensor* first = nullptr;
  for (const OutputTensor& tensor : model.tensors) {
    if (!tensor.spec) continue;
    if (first == nullptr) first = &tensor;
    if (tensor.spec->group == first->spec->group) continue;
    const auto text = [](size_t group) {
      return group == QuantSpec::kWholeRow ? std::string("the whole row") : cat(group);
    };
    throw Error(ErrorKind::kUsage, cat(tensor.name, ": group ", text(tensor.spec->group), ", but ", first->name,
                                       " has ", text(first->spec->group),
                                       "; AWQ has one group size: try a --group-size for all, or --format gptq"));
  }
}

size_t stored_bytes(TransposedLayout layout, const OutputTensor& tensor) {
  if (!tensor.spec) return byte_size(tensor.dtype, element_count(tensor.shape));
  size_t total = 0;
  for (const TransposedSlot& slot : transposed_slots(layout, *tensor.spec, tensor.rows(), tensor.cols()))
    total += byte_size(slot.dtype, element_count(slot.shape));
  return total;
}

template <Choice choice>
size_t stored_bytes(const OutputTensor& tensor) {
  return stored_bytes(tensor_layout(choice), tensor);
}

// A pattern that matches this module alone.
std::string pattern_of(const std::string& module) {
  std::string pattern = "^";
  for (const char c : module) {
    if (std::string_view("\\.^$|?*+()[]{}").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern + "$";
}

// What most linears have is the rule, everything else an exception.
TransposedConfig describe(const OutputModel& model, TransposedLayout layout) {
  std::vector<std::pair<TransposedFormat, size_t>> counts;
  const auto format_of = [&](const OutputTensor& tensor) {
    return TransposedFormat{layout, tensor.spec->bits, tensor.spec->group, tensor.spec->symmetric};
  };
  TransposedConfig config;
  for (const OutputTensor& tensor : model.tensors) {
    if (!tensor.spec) continue;
    const TransposedFormat format = format_of(tensor);
    auto found = std::find_if(counts.begin(), counts.end(), [&](const auto& entry) { return entry.first == format; });
    if (found == counts.end()) found = counts.insert(counts.end(), {format, 0});
    ++found->second;
    config.act_order |= tensor.grouped_columns;
    config.lm_head |= tensor.role == TensorRole::kLmHead;
  }
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != counts.end()) config.linears = most->first;
  for (const OutputTensor& tensor : model.tensors) {
    if (!tensor.spec) {
      if (tensor.role != TensorRole::kLinear || !tensor.name.ends_with(kWeightSuffix)) continue;
      const std::string module = module_of(tensor.name);
      if (layout == TransposedLayout::kAwq)
        config.kept.push_back(module);
      else
        config.exceptions.push_back({.pattern = pattern_of(module), .quantized = false});
      continue;
    }
    const TransposedFormat format = format_of(tensor);
    if (layout == TransposedLayout::kAwq || format == config.linears) continue;
    config.exceptions.push_back({.pattern = pattern_of(module_of(tensor.name)),
                                 .bits = format.bits,
                                 .group = format.group,
                                 .symmetric = format.symmetric});
  }
  return config;
}

template <Choice choice>
std::unique_ptr<Exporter> make(const std::filesystem::path& out, bool force, OutputModel model) {
  for (const OutputTensor& tensor : model.tensors) check<choice>(tensor);
  const TransposedLayout layout = model_layout(choice, model);
  Folder::Contents contents;
  contents.encode = [layout](const OutputTensor& tensor) {
    Folder::Encoding encoding;
    for (const TransposedSlot& slot : transposed_slots(layout, *tensor.spec, tensor.rows(), tensor.cols()))
      encoding.slots.push_back({cat(module_of(tensor.name), ".", slot.suffix), slot.dtype, slot.shape});
    encoding.make = [layout, &tensor] {
      return std::make_unique<TransposedEncoder>(layout, *tensor.spec, tensor.rows(), tensor.cols(),
                                                 tensor.grouped_columns);
    };
    return encoding;
  };
  contents.describe = [layout](const OutputModel& written, OrderedJson& config) {
    const OrderedJson description = to_json(describe(written, layout));
    config["quantization_config"] = description;
    std::map<std::string, std::string> more;
    if (layout != TransposedLayout::kAwq) more["quantize_config.json"] = description.dump(2) + "\n";
    return more;
  };
  return std::make_unique<Folder>(out, force, std::move(model), std::move(contents));
}

}  // namespace

extern const ExporterEntry exporter_gptq;
const ExporterEntry exporter_gptq = {
    "gptq",
    "Hugging Face folder as GPTQModel writes it; version 2 where there are zero points",
    true,
    true,
    check<Choice::kGptq>,
    stored_bytes<Choice::kGptq>,
    make<Choice::kGptq>,
    nullptr,
    DType::kF16};
extern const ExporterEntry exporter_gptq_v1;
const ExporterEntry exporter_gptq_v1 = {"gptq:v1",
                                        "the same, always version 1 (for old readers)",
                                        true,
                                        true,
                                        check<Choice::kGptqV1>,
                                        stored_bytes<Choice::kGptqV1>,
                                        make<Choice::kGptqV1>,
                                        nullptr,
                                        DType::kF16};
extern const ExporterEntry exporter_gptq_v2;
const ExporterEntry exporter_gptq_v2 = {"gptq:v2",
                                        "the same, always version 2",
                                        true,
                                        true,
                                        check<Choice::kGptqV2>,
                                        stored_bytes<Choice::kGptqV2>,
                                        make<Choice::kGptqV2>,
                                        nullptr,
                                        DType::kF16};
extern const ExporterEntry exporter_awq;
const ExporterEntry exporter_awq = {"awq",
                                    "Hugging Face folder as AutoAWQ writes it (version GEMM, 4 bits)",
                                    true,
                                    true,
                                    check<Choice::kAwq>,
                                    stored_bytes<Choice::kAwq>,
                                    make<Choice::kAwq>,
                                    check_awq_model,
                                    DType::kF16};

}  // namespace nibble
