#pragma once
#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "export/exporter.h"
#include "export/hf_folder.h"

namespace nibble {

inline constexpr std::string_view kWeightSuffix = ".weight";

// "model.layers.0.mlp.up_proj" for the tensor "model.layers.0.mlp.up_proj.weight".
inline std::string module_of(const std::string& tensor) {
  return tensor.substr(0, tensor.size() - kWeightSuffix.size());
}

// A Hugging Face folder in which a quantized weight is several tensors. `Encoder` turns row slices into their bytes:
//   void write(size_t first_row, const QuantizedMatrix& rows, const Sink& sink);  // thread-safe
//   void finish(const Sink& sink);                                                // after all rows
//   with sink(size_t slot, size_t offset, std::span<const std::byte> bytes).
template <class Encoder>
class EncodedFolder final : public Exporter {
 public:
  struct Encoding {
    std::vector<SafeTensorSlot> slots;  // of one tensor, with full names; in the encoder's order
    std::function<std::unique_ptr<Encoder>()> make;
  };
  struct Contents {
    std::function<Encoding(const OutputTensor&)> encode;  // of quantized tensors
    // Adds quantization_config to the source's configuration; returns more files, name and contents.
    std::function<std::map<std::string, std::string>(const OutputModel&, OrderedJson& config)> describe;
    // Tensors besides the model's own: small ones, known from the start.
    std::vector<std::pair<SafeTensorSlot, std::vector<std::byte>>> constants{};
  };

  EncodedFolder(const std::filesystem::path& out, bool force, OutputModel model, Contents contents)
      : model_(std::move(model)),
        contents_(std::move(contents)),
        tensors_(model_.tensors.size()),
        folder_(out, force, lay_out()) {}

  void write(size_t tensor, size_t first_row, const QuantizedMatrix& rows) override {
    State& state = tensors_[tensor];
    std::call_once(state.started, [&] { state.encoder = state.make(); });
    const auto sink = [&](size_t slot, size_t offset, std::span<const std::byte> bytes) {
      folder_.write(state.first_slot + slot, offset, bytes);
    };
    state.encoder->write(first_row, rows, sink);
    if (state.rows_left.fetch_sub(rows.rows) != rows.rows) return;
    state.encoder->finish(sink);
    state.encoder.reset();
  }

  void write(size_t tensor, size_t first_row, size_t, std::span<const std::byte> values) override {
    const OutputTensor& output = model_.tensors[tensor];
    folder_.write(tensors_[tensor].first_slot, first_row * byte_size(output.dtype, output.cols()), values);
  }

  void finish() override {
    OrderedJson config = updated_config(model_.source.config(), model_.dtype, model_.tied_embeddings);
    const std::map<std::string, std::string> more = contents_.describe(model_, config);
    for (size_t i = 0; i < contents_.constants.size(); ++i)
      folder_.write(first_constant_ + i, 0, contents_.constants[i].second);
    folder_.finish(config, model_.source, more);
  }

  size_t bytes() const override { return folder_.data_bytes(); }

 private:
  // An encoder lives from the first slice to the last, so that memory does not grow with the model.
  struct State {
    size_t first_slot = 0;
    std::function<std::unique_ptr<Encoder>()> make;
    std::once_flag started;
    std::unique_ptr<Encoder> encoder;
    std::atomic<size_t> rows_left{0};
  };

  std::vector<SafeTensorSlot> lay_out() {
    std::vector<SafeTensorSlot> slots;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const OutputTensor& tensor = model_.tensors[i];
      tensors_[i].first_slot = slots.size();
      if (!tensor.spec) {
        slots.push_back({tensor.name, tensor.dtype, tensor.shape});
        continue;
      }
      tensors_[i].rows_left = tensor.rows();
      Encoding encoding = contents_.encode(tensor);
      tensors_[i].make = std::move(encoding.make);
      for (SafeTensorSlot& slot : encoding.slots) slots.push_back(std::move(slot));
    }
    first_constant_ = slots.size();
    for (const auto& constant : contents_.constants) slots.push_back(constant.first);
    return slots;
  }

  OutputModel model_;
  Contents contents_;
  std::vector<State> tensors_;
  size_t first_constant_ = 0;  // its slot
  HfFolder folder_;
};

}  // namespace nibble
