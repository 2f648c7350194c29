#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "model/architecture.h"
#include "model/source.h"
#include "quant/quantized_matrix.h"

namespace nibble {

// One tensor of the output: quantized when `spec` is set, otherwise stored as `dtype`, which is a GGML block type where
// rows come as finished blocks. A spec whose scale_dtype is a GGML block type has scales as such blocks hold them.
struct OutputTensor {
  std::string name;  // Hugging Face name
  Shape shape;
  std::optional<QuantSpec> spec;
  ActivationSpec activations;
  DType dtype = DType::kF32;
  bool grouped_columns = false;  // its codes come with group_of
  TensorRole role = TensorRole::kOther;
  std::string algorithm{};  // that chose its codes, "awq,gptq"; empty when they came with the source
  // [cols]: its codes are right for inputs multiplied by these. Of graphs of any kind (ONNX) alone; empty: 1.
  std::vector<float> input_factors{};

  size_t rows() const { return shape.empty() ? 1 : shape[0]; }
  size_t cols() const { return element_count(shape) / (rows() == 0 ? 1 : rows()); }
};

// Everything an exporter may need to know before the first byte. `source` gives config and side files.
struct OutputModel {
  const Source& source;               // outlives the exporter
  std::vector<OutputTensor> tensors;  // in the order in which they will be written
  DType dtype = DType::kF32;          // of what is not quantized, as config.json states it
  bool tied_embeddings = false;
  std::string embedding;       // name of the token embedding, "model.embed_tokens.weight"
  std::string scheme{};        // what was asked for, where that has a name: "Q4_K_M"
  int accuracy_level = 0;      // of ONNX's MatMulNBits: how its inputs may be rounded; 0 = not at all
  bool tensor_ranges = false;  // ONNX: dynamic inputs have one range for all tokens of a run, not one for each
  // Scales of E4M3 keys and values by tensor name, "model.layers.0.self_attn.k_scale" and "...v_scale", stored in
  // `dtype`. Empty: the cache is the engine's business.
  std::map<std::string, float> cache_scales{};
};

// Writes one model in one file format while it is being made. Nothing appears at the destination before finish().
class Exporter {
 public:
  virtual ~Exporter() = default;
  // Rows [first_row, first_row + rows) of a quantized tensor; slices of one tensor may come in any order and from
  // several threads at once.
  virtual void write(size_t tensor, size_t first_row, const QuantizedMatrix& rows) = 0;
  // The same for a tensor that is not quantized: values already in the tensor's dtype.
  virtual void write(size_t tensor, size_t first_row, size_t rows, std::span<const std::byte> values) = 0;
  // After every row of every tensor: side files, config, sync, rename.
  virtual void finish() = 0;
  virtual size_t bytes() const = 0;  // of all tensors, headers excluded
};

struct ExporterEntry {
  std::string_view name;  // "hf"
  std::string_view summary;
  bool folder;       // OUT is a folder, otherwise a file
  bool keeps_codes;  // quantized weights stay quantized; otherwise their values are stored as floats
  // Throws Error(kUsage) naming the nearest thing that works when the format or its readers cannot hold this tensor.
  void (*check)(const OutputTensor& tensor);
  // Stored bytes of a tensor, to the byte.
  size_t (*stored_bytes)(const OutputTensor& tensor);
  // `out` and `force` as for StagedOutput, whose errors are thrown here, before any work.
  std::unique_ptr<Exporter> (*make)(const std::filesystem::path& out, bool force, OutputModel model);
  // As check(), for what only the whole model shows; every tensor was checked before. Null: nothing.
  void (*check_model)(const OutputModel& model) = nullptr;
  // What the format's readers expect scales in; weights that are being quantized get it. Nothing: the model's own type.
  std::optional<DType> scale_dtype = std::nullopt;
  bool blocks = false;          // it holds GGML's blocks as they are
  bool quantizes_head = false;  // lm_head is quantized like the linears unless asked otherwise
  // What the user may not expect of how a tensor is stored, or "". May be null.
  std::string (*note)(const OutputTensor& tensor) = nullptr;
  bool asymmetric_inputs = false;  // static ranges of inputs get a zero point
  bool cache_scales = false;       // it has a place for OutputModel::cache_scales
};

// Throws Error(kUsage) when the format has no place for scales of keys and values.
void check_cache_scales(const ExporterEntry& format);
// check() of every tensor, then check_model(), and check_cache_scales() where there are some.
void check_output(const ExporterEntry& format, const OutputModel& model);

std::span<const ExporterEntry> exporters();
const ExporterEntry& find_exporter(std::string_view name);  // throws Error(kUsage) listing the known formats

}  // namespace nibble
