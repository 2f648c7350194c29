#pragma once
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "algo/chain.h"
#include "core/json.h"
#include "export/exporter.h"
#include "model/architecture.h"
#include "model/source.h"
#include "pipeline/quantize_request.h"
#include "pipeline/stream_options.h"

namespace nibble {

// What happens to one tensor of the output.
struct PlannedTensor {
  enum class Action : uint8_t {
    kQuantize,    // through the algorithm
    kMoveCodes,   // already quantized: its codes are kept
    kMoveBlocks,  // GGML blocks, copied
    kFloat,       // stored as a plain tensor
  };
  const StoredTensor* source = nullptr;  // never null; the embedding's for an untied lm_head
  std::string name;                      // with ".weight"
  TensorRole role = TensorRole::kOther;
  Action action = Action::kFloat;
  std::optional<QuantSpec> spec;  // unless kFloat
  ActivationSpec activations;
  std::string algorithm;      // of kQuantize: a chain, "awq,gptq"
  bool calibrated = false;    // kQuantize in a block, on calibration tokens
  DType dtype = DType::kF32;  // of kFloat; for the others what they dequantize to
  std::string reason;         // "scheme W4A16", "--skip 'lm_head'", "norm"
  std::string fallback;       // "group 128 does not divide 576 columns: 64", or empty
  size_t bytes_before = 0;
  size_t bytes_after = 0;

  // Without ".weight": what patterns match.
  std::string module() const;
};

// Which tensor gets what: made before any work, shown by --dry-run. The source must outlive it.
struct QuantizePlan {
  std::vector<PlannedTensor> tensors;
  DType dtype = DType::kF32;  // of what is not quantized
  bool tied_embeddings = false;
  std::string embedding;                                                                 // name of the token embedding
  std::map<std::string, std::unique_ptr<const AlgorithmChain>, std::less<>> algorithms;  // those that are used
  std::map<std::string, AlgorithmSettings, std::less<>> settings;  // those that differ from the defaults, by algorithm
  std::optional<CalibrationChoice> calibration;                    // nothing: no algorithm looks at activations
  StreamOptions stream;
  // Set: activations come from ONNX Runtime, looked for at this place ("": where it is installed).
  std::optional<std::string> onnx_runtime;
  std::string scheme;  // a preset's or a GGUF type's name, or empty
  // Mean squares of inputs from a file of statistics, or norm_gains() for algorithms that want them, by tensor; for
  // tensors that are not calibrated.
  std::map<std::string, InputFactor, std::less<>> importance;
  // The attention of each layer ("model.layers.0.self_attn") when the output says how keys and values are cached:
  // calibration finds their scales. Otherwise empty.
  std::vector<std::string> cached;
  std::vector<std::string> warnings;  // what the user may not expect: fallbacks, patterns without a match, requantizing
  size_t parameters = 0;              // of the output, a tied matrix counted once
  size_t bytes_before = 0;
  size_t bytes_after = 0;
  int accuracy_level = 0;           // see OutputModel
  bool tensor_ranges = false;       // see OutputModel
  size_t predicted_peak_bytes = 0;  // resident memory of the run

  double bits_per_weight() const;
  const PlannedTensor* find(std::string_view name) const;  // null when there is none of that name
  const InputFactor* inputs_of(
      std::string_view name) const;  // of `importance`; null when it says nothing of the tensor
};

// `format` decides stored sizes and what can be stored; null: the weights stay in memory. Throws Error(kUsage) for
// requests that cannot be met (unknown names, groups with allow_fallback off, nothing to quantize), Error(kCorrupt) for
// a source that lacks tensors or has some of the wrong shape.
QuantizePlan make_plan(const Source& source, const QuantizeRequest& request, const ExporterEntry* format);
// Another format for the same values: codes move unchanged where the format keeps codes, all else becomes floats of
// `dtype` (by default as in the source). Throws Error(kUsage) when the format cannot hold the codes, unless
// `allow_requantize`: such values are then rounded anew to the nearest form that it can hold (nearest_form()).
QuantizePlan make_convert_plan(const Source& source, std::optional<DType> dtype, const ExporterEntry& format,
                               bool allow_requantize = false);

// Fills in the bytes and the predicted memory of a plan whose tensors are decided; adds to its totals. Throws what the
// format refuses, and warns of what it stores differently.
void add_sizes(QuantizePlan& plan, const ExporterEntry* format);

// The same as exporters see them: a tensor of `format` (null: held in memory), and the whole plan.
OutputTensor output_tensor(const PlannedTensor& planned, const ExporterEntry* format);
OutputModel output_model(const Source& source, const QuantizePlan& plan, const ExporterEntry& format);

// The "plan" object of the JSON result.
OrderedJson to_json(const QuantizePlan& plan);
// One line for each tensor (runs of equal lines joined) and the totals, for people.
std::string plan_table(const QuantizePlan& plan);

}  // namespace nibble
