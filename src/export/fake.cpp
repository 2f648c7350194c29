// `fake`: what a quantized model computes with, as plain floats, for tools that know nothing of quantization.
#include "export/exporter.h"
#include "export/float_bytes.h"
#include "export/hf_folder.h"

namespace nibble {
namespace {

void check(const OutputTensor&) {}

size_t stored_bytes(const OutputTensor& tensor) { return byte_size(tensor.dtype, element_count(tensor.shape)); }

std::vector<SafeTensorSlot> slots_of(const OutputModel& model) {
  std::vector<SafeTensorSlot> slots;
  for (const OutputTensor& tensor : model.tensors) slots.push_back({tensor.name, tensor.dtype, tensor.shape});
  return slots;
}

class FakeExporter final : public Exporter {
 public:
  FakeExporter(const std::filesystem::path& out, bool force, OutputModel model)
      : model_(std::move(model)), folder_(out, force, slots_of(model_)) {}

  void write(size_t tensor, size_t first_row, const QuantizedMatrix& rows) override {
    write(tensor, first_row, rows.rows, float_bytes(rows, model_.tensors[tensor].dtype));
  }

  void write(size_t tensor, size_t first_row, size_t, std::span<const std::byte> values) override {
    const OutputTensor& output = model_.tensors[tensor];
    folder_.write(tensor, first_row * byte_size(output.dtype, output.cols()), values);
  }

  void finish() override {
    folder_.finish(updated_config(model_.source.config(), model_.dtype, model_.tied_embeddings), model_.source);
  }
  size_t bytes() const override { return folder_.data_bytes(); }

 private:
  OutputModel model_;
  HfFolder folder_;
};

std::unique_ptr<Exporter> make(const std::filesystem::path& out, bool force, OutputModel model) {
  return std::make_unique<FakeExporter>(out, force, std::move(model));
}

}  // namespace

extern const ExporterEntry exporter_fake;
const ExporterEntry exporter_fake = {
    "fake", "Hugging Face folder with the dequantized weights", true, false, check, stored_bytes, make};

}  // namespace nibble
