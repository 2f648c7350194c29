// `pt`: saved_results/best_model.pt, the state dict with the values that a quantized model computes with, and
// saved_results/weight_config.json, which says how they were quantized. config.json and the side files beside them make
// the folder a model that nibble reads.
#include <atomic>

#include "export/exporter.h"
#include "export/float_bytes.h"
#include "export/hf_folder.h"
#include "formats/torch_writer.h"

namespace nibble {
namespace {

constexpr size_t kWritebackBytes = size_t{32} << 20;
constexpr std::string_view kWeight = ".weight", kHead = "lm_head.weight";

void check(const OutputTensor&) {}

size_t stored_bytes(const OutputTensor& tensor) { return byte_size(tensor.dtype, element_count(tensor.shape)); }

// The folder in which both files lie, made in the staging folder.
std::filesystem::path results_folder(const StagedOutput& output) {
  std::filesystem::path folder = output.path() / "saved_results";
  std::error_code error;
  std::filesystem::create_directory(folder, error);
  if (error) throw io_error(cat("cannot create ", folder.string()), error.value());
  return folder;
}

OrderedJson describe_weight(const QuantSpec& spec, const std::string& algorithm) {
  const bool grouped = !spec.per_tensor && spec.group != QuantSpec::kWholeRow;
  OrderedJson json;
  json["bits"] = spec.bits;
  json["group_size"] = grouped ? static_cast<int64_t>(spec.group) : -1;
  if (spec.per_tensor) json["granularity"] = "per_tensor";
  json["scheme"] = spec.symmetric ? "sym" : "asym";
  json["dtype"] = name(spec.grid);
  json["algorithm"] = algorithm.empty() ? OrderedJson(nullptr) : OrderedJson(algorithm);
  return json;
}

class PtExporter final : public Exporter {
 public:
  PtExporter(const std::filesystem::path& out, bool force, OutputModel model)
      : model_(std::move(model)),
        output_(out, /*folder=*/true, force),
        results_(results_folder(output_)),
        writer_(results_ / "best_model.pt", slots(), aliases()) {}

  void write(size_t tensor, size_t first_row, const QuantizedMatrix& rows) override {
    write(tensor, first_row, rows.rows, float_bytes(rows, model_.tensors[tensor].dtype));
  }

  void write(size_t tensor, size_t first_row, size_t, std::span<const std::byte> values) override {
    const OutputTensor& output = model_.tensors[tensor];
    writer_.write(tensor, first_row * byte_size(output.dtype, output.cols()), values);
    if (unsynced_.fetch_add(values.size()) + values.size() < kWritebackBytes) return;
    unsynced_ = 0;
    writer_.start_writeback();
  }

  void finish() override {
    writer_.finish();
    write_text_file(results_ / "weight_config.json", weight_config().dump(2) + "\n");
    write_side_files(output_.path(), updated_config(model_.source.config(), model_.dtype, model_.tied_embeddings),
                     model_.source);
    output_.commit();
  }
  size_t bytes() const override { return writer_.data_bytes(); }

 private:
  std::vector<TensorSlot> slots() const {
    std::vector<TensorSlot> slots;
    for (const OutputTensor& tensor : model_.tensors) slots.push_back({tensor.name, tensor.dtype, tensor.shape});
    return slots;
  }

  // A state dict names a tied matrix twice.
  std::vector<std::pair<std::string, size_t>> aliases() const {
    if (!model_.tied_embeddings) return {};
    for (size_t i = 0; i < model_.tensors.size(); ++i)
      if (model_.tensors[i].name == model_.embedding) return {{std::string(kHead), i}};
    return {};
  }

  OrderedJson weight_config() const {
    OrderedJson json = OrderedJson::object();
    for (const OutputTensor& tensor : model_.tensors) {
      std::optional<QuantSpec> spec = tensor.spec;
      // Of a model that was quantized before and is only written anew.
      if (const StoredTensor* stored = model_.source.find(tensor.name); !spec && stored) spec = stored->spec();
      if (!spec) continue;
      const bool module = tensor.name.ends_with(kWeight);
      json[module ? tensor.name.substr(0, tensor.name.size() - kWeight.size()) : tensor.name] =
          describe_weight(*spec, tensor.algorithm);
    }
    return json;
  }

  OutputModel model_;
  StagedOutput output_;
  std::filesystem::path results_;
  TorchWriter writer_;
  std::atomic<size_t> unsynced_{0};  // bytes since the last writeback
};

std::unique_ptr<Exporter> make(const std::filesystem::path& out, bool force, OutputModel model) {
  return std::make_unique<PtExporter>(out, force, std::move(model));
}

}  // namespace

extern const ExporterEntry exporter_pt;
const ExporterEntry exporter_pt = {
    "pt", "torch state dict with the dequantized weights, weight_config.json", true, false, check, stored_bytes, make};

}  // namespace nibble
