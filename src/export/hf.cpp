// `hf`: a Hugging Face folder with packed weights in the compressed-tensors schema, or quant_method "nibble" where that
// schema has no words for a weight.
#include <algorithm>
#include <atomic>
#include <mutex>

#include "export/exporter.h"
#include "export/hf_folder.h"
#include "quant/compressed_config.h"
#include "quant/compressed_tensors.h"

namespace nibble {
namespace {

constexpr std::string_view kWeight = ".weight";

std::string module_of(const std::string& tensor) { return tensor.substr(0, tensor.size() - kWeight.size()); }

void check(const OutputTensor& tensor) {
  if (!tensor.spec) return;
  if (!tensor.name.ends_with(kWeight) || tensor.shape.size() != 2)
    throw Error(
        ErrorKind::kUsage,
        cat(tensor.name, ": only two-dimensional .weight tensors can be stored quantized; keep it with --skip"));
}

size_t stored_bytes(const OutputTensor& tensor) {
  if (!tensor.spec) return byte_size(tensor.dtype, element_count(tensor.shape));
  return compressed_bytes(*tensor.spec, tensor.activations, tensor.rows(), tensor.cols(), tensor.grouped_columns);
}

// What one entry of config_groups says; two weights that differ only in the dtype of their scales share it.
bool same_group(const CompressedGroup& group, const OutputTensor& tensor) {
  QuantSpec spec = *tensor.spec;
  spec.scale_dtype = group.weights.scale_dtype;
  spec.full_range = group.weights.full_range;
  return spec == group.weights && tensor.activations == group.activations;
}

CompressedConfig describe_groups(const OutputModel& model) {
  CompressedConfig config;
  std::vector<size_t> linears;  // in each group: those that the class "Linear" stands for
  for (const OutputTensor& tensor : model.tensors) {
    const std::string module = tensor.name.ends_with(kWeight) ? module_of(tensor.name) : "";
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
      config.groups.push_back(
          {{}, *tensor.spec, tensor.activations, std::string(compressed_format(*tensor.spec, tensor.activations))});
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

class HfExporter final : public Exporter {
 public:
  HfExporter(const std::filesystem::path& out, bool force, OutputModel model)
      : model_(std::move(model)), layout_(lay_out(model_)), folder_(out, force, std::move(layout_.slots)) {}

  void write(size_t tensor, size_t first_row, const QuantizedMatrix& rows) override {
    Quantized& quantized = *layout_.quantized[tensor];
    const OutputTensor& output = model_.tensors[tensor];
    std::call_once(quantized.started, [&] {
      quantized.encoder = std::make_unique<CompressedEncoder>(*output.spec, output.activations, output.rows(),
                                                              output.cols(), output.grouped_columns);
    });
    const auto sink = [&](size_t slot, size_t offset, std::span<const std::byte> bytes) {
      folder_.write(layout_.first_slot[tensor] + slot, offset, bytes);
    };
    quantized.encoder->write(first_row, rows, sink);
    if (quantized.rows_left.fetch_sub(rows.rows) != rows.rows) return;
    quantized.encoder->finish(sink);
    quantized.encoder.reset();
  }

  void write(size_t tensor, size_t first_row, size_t, std::span<const std::byte> values) override {
    const OutputTensor& output = model_.tensors[tensor];
    folder_.write(layout_.first_slot[tensor], first_row * byte_size(output.dtype, output.cols()), values);
  }

  void finish() override {
    OrderedJson config = updated_config(model_.source.config(), model_.dtype, model_.tied_embeddings);
    const CompressedConfig groups = describe_groups(model_);
    if (!groups.groups.empty()) config["quantization_config"] = to_json(groups);
    folder_.finish(config, model_.source);
  }

  size_t bytes() const override { return folder_.data_bytes(); }

 private:
  // An encoder holds a tensor's zero points: it lives from the first slice to the last, so that memory does not grow
  // with the model.
  struct Quantized {
    std::once_flag started;
    std::unique_ptr<CompressedEncoder> encoder;
    std::atomic<size_t> rows_left{0};
  };
  struct Layout {
    std::vector<SafeTensorSlot> slots;
    std::vector<size_t> first_slot;                     // of each tensor
    std::vector<std::unique_ptr<Quantized>> quantized;  // of each tensor, null for floats
  };

  static Layout lay_out(const OutputModel& model) {
    Layout layout;
    for (const OutputTensor& tensor : model.tensors) {
      check(tensor);
      layout.first_slot.push_back(layout.slots.size());
      layout.quantized.emplace_back();
      if (!tensor.spec) {
        layout.slots.push_back({tensor.name, tensor.dtype, tensor.shape});
        continue;
      }
      layout.quantized.back() = std::make_unique<Quantized>();
      layout.quantized.back()->rows_left = tensor.rows();
      for (const CompressedSlot& slot :
           compressed_slots(*tensor.spec, tensor.activations, tensor.rows(), tensor.cols(), tensor.grouped_columns))
        layout.slots.push_back({cat(module_of(tensor.name), ".", slot.suffix), slot.dtype, slot.shape});
    }
    return layout;
  }

  OutputModel model_;
  Layout layout_;
  HfFolder folder_;
};

std::unique_ptr<Exporter> make(const std::filesystem::path& out, bool force, OutputModel model) {
  return std::make_unique<HfExporter>(out, force, std::move(model));
}

}  // namespace

extern const ExporterEntry exporter_hf;
const ExporterEntry exporter_hf = {
    "hf", "Hugging Face folder, compressed-tensors schema (default)", true, true, check, stored_bytes, make};

}  // namespace nibble
