// `gguf`: one file for llama.cpp and its kin, tensors in GGML's block types.
#include <algorithm>
#include <map>

#include "core/checked.h"
#include "export/exporter.h"
#include "export/float_bytes.h"
#include "export/gguf_metadata.h"
#include "export/gguf_scheme.h"
#include "formats/ggml_type.h"
#include "model/source_floats.h"
#include "quant/ggml_blocks.h"

namespace nibble {
namespace {

constexpr std::string_view kRopeDivisors = "rope_freqs.weight";

// How the file holds a tensor. Vectors are F32: engines compute with them as they are.
DType stored_type(const OutputTensor& tensor) {
  if (tensor.spec) return ggml_type_for(*tensor.spec, tensor.cols()).value();
  if (tensor.shape.size() <= 1 && is_float(tensor.dtype)) return DType::kF32;
  return tensor.dtype;
}

void check(const OutputTensor& tensor) {
  const auto refuse = [&](const std::string& why) { throw Error(ErrorKind::kUsage, cat(tensor.name, ": ", why)); };
  if (!tensor.spec) {
    if (!ggml_type_number(tensor.dtype)) refuse(cat("GGUF has no type ", info(tensor.dtype).name));
    return;
  }
  if (tensor.activations.mode != ActivationSpec::Mode::kNone)
    refuse("GGUF has no words for quantized activations; use a scheme without them");
  if (tensor.grouped_columns)
    refuse(
        "its columns have groups of their own (act-order), which GGUF's blocks do not have; dequantize with --format "
        "fake");
  if (tensor.shape.size() != 2) refuse("GGUF's blocks are for matrices; keep it with --skip");
  const auto type = ggml_type_for(*tensor.spec, tensor.cols());
  if (!type)
    refuse(
        cat("GGUF has no blocks for ", describe(*tensor.spec), " in rows of ", tensor.cols(),
            " columns; symmetric integers in groups of a multiple of 32 have (Q4_0, Q5_0, Q8_0): try --group-size 32 "
            "--sym, or quantize the original with --format gguf:TYPE"));
  if (tensor.cols() % info(*type).block != 0)
    refuse(
        cat("rows of ", tensor.cols(), " columns are no whole ", info(*type).name, " blocks of ", info(*type).block));
}

size_t stored_bytes(const OutputTensor& tensor) { return byte_size(stored_type(tensor), element_count(tensor.shape)); }

// general.file_type: the scheme that was asked for, or the one named like the type of most weights.
uint32_t file_type(const OutputModel& model) {
  if (const GgufScheme* scheme = find_gguf_scheme(model.scheme)) return scheme->file_type;
  std::map<DType, size_t> counts;
  for (const OutputTensor& tensor : model.tensors)
    if (tensor.shape.size() > 1) counts[stored_type(tensor)] += element_count(tensor.shape);
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const GgufScheme* scheme = most == counts.end() ? nullptr : find_gguf_scheme(info(most->first).name);
  return scheme ? scheme->file_type : 0;
}

class GgufExporter final : public Exporter {
 public:
  GgufExporter(const std::filesystem::path& out, bool force, OutputModel model)
      : model_(std::move(model)),
        config_(parse_config(model_.source.config())),
        output_(out, /*folder=*/false, force),
        places_(places()),
        divisors_(divisors()),
        writer_(output_.path(), gguf_metadata(model_, config_, file_type(model_)), slots()) {}

  void write(size_t tensor, size_t first_row, const QuantizedMatrix& rows) override {
    const OutputTensor& output = model_.tensors[tensor];
    const DType type = stored_type(output);
    place_rows(tensor, first_row,
               with_context([&] { return output.name; }, [&] { return export_ggml_rows(type, rows); }));
  }

  void write(size_t tensor, size_t first_row, size_t rows, std::span<const std::byte> values) override {
    const OutputTensor& output = model_.tensors[tensor];
    const DType type = stored_type(output);
    if (type == output.dtype) return place_rows(tensor, first_row, values);
    std::vector<float> floats(rows * output.cols());
    floats_from_bytes(output.dtype, values.data(), floats.size(), floats.data(), output.name);
    place_rows(tensor, first_row, float_bytes(floats, type));
  }

  void finish() override {
    if (!divisors_.empty()) writer_.write(places_.size(), 0, divisors_);
    writer_.finish();
    output_.commit();
  }
  size_t bytes() const override { return writer_.data_bytes(); }

 private:
  struct Place {
    std::string name;  // in the file
    size_t head_rows;  // rows of one head where the file interleaves its halves, else 0
    size_t row_bytes;
  };

  std::vector<Place> places() const {
    std::vector<Place> all;
    // Families without a name of their own in GGUF are Llama's there, with its order of rows.
    const Architecture& family =
        config_.architecture->gguf_name.empty() ? get_gguf_architecture("llama") : *config_.architecture;
    for (const OutputTensor& tensor : model_.tensors) {
      check(tensor);
      const auto at = find_hf_tensor(*config_.architecture, tensor.name);
      const TensorRule* rule = at ? family.find(at->rule->slot) : nullptr;
      if (!rule)
        throw Error(ErrorKind::kUnsupported,
                    cat("tensor ", tensor.name, " is not one that GGUF files of architecture '",
                        config_.architecture->name, "' have"));
      all.push_back({tensor_name(rule->gguf, at->layer, at->bias), rule->gguf_interleaved ? config_.head_dim : 0,
                     byte_size(stored_type(tensor), tensor.cols())});
    }
    return all;
  }

  // The bytes of rope_freqs.weight, those of a GGUF source itself where there is one.
  std::vector<std::byte> divisors() const {
    if (const Gguf* gguf = model_.source.gguf())
      for (const GgufTensor& tensor : gguf->tensors())
        if (tensor.name == kRopeDivisors && tensor.view.dtype == DType::kF32)
          return {tensor.view.bytes.begin(), tensor.view.bytes.end()};
    return float_bytes(gguf_rope_divisors(config_), DType::kF32);
  }

  std::vector<GgufSlot> slots() const {
    std::vector<GgufSlot> all;
    for (size_t i = 0; i < places_.size(); ++i)
      all.push_back({places_[i].name, stored_type(model_.tensors[i]), model_.tensors[i].shape});
    if (!divisors_.empty())
      all.push_back({std::string(kRopeDivisors), DType::kF32, {divisors_.size() / sizeof(float)}});
    return all;
  }

  void place_rows(size_t tensor, size_t first_row, std::span<const std::byte> bytes) {
    const auto& [name, head, row_bytes] = places_[tensor];
    if (head == 0) return writer_.write(tensor, first_row * row_bytes, bytes);
    for (size_t at = 0, row = first_row; at < bytes.size(); at += row_bytes, ++row) {
      const size_t within = row % head;
      const size_t to = row - within + 2 * (within % (head / 2)) + within / (head / 2);
      writer_.write(tensor, to * row_bytes, bytes.subspan(at, row_bytes));
    }
  }

  OutputModel model_;
  ModelConfig config_;
  StagedOutput output_;
  std::vector<Place> places_;
  std::vector<std::byte> divisors_;
  GgufWriter writer_;
};

std::unique_ptr<Exporter> make(const std::filesystem::path& out, bool force, OutputModel model) {
  return std::make_unique<GgufExporter>(out, force, std::move(model));
}

}  // namespace

extern const ExporterEntry exporter_gguf;
const ExporterEntry exporter_gguf = {
    .name = "gguf",
    .summary = "one file for llama.cpp and its kin; gguf:TYPE quantizes to TYPE, such as Q4_K_M or Q8_0",
    .folder = false,
    .keeps_codes = true,
    .check = check,
    .stored_bytes = stored_bytes,
    .make = make,
    .scale_dtype = DType::kF16,
    .blocks = true,
};

}  // namespace nibble
