#pragma once
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "algo/algorithm.h"
#include "pipeline/calibration_choice.h"
#include "quant/activation_observer.h"
#include "quant/spec.h"

namespace nibble {

// A partial QuantSpec: what somebody asked for. Unset fields come from the layer below (preset, then defaults).
struct SpecChange {
  std::optional<int> bits{};
  std::optional<size_t> group{};  // columns; QuantSpec::kWholeRow = one scale for each output channel
  std::optional<bool> per_tensor{};
  std::optional<bool> symmetric{};
  std::optional<bool> full_range{};
  std::optional<Grid> grid{};
  std::optional<ActivationSpec::Mode> act{};
  std::optional<int> act_bits{};

  bool empty() const { return *this == SpecChange{}; }
  friend bool operator==(const SpecChange&, const SpecChange&) = default;
};

// 'REGEX:bits=8,group=64,sym,algo=rtn': for the modules whose names match, change the spec.
struct Rule {
  std::string text;     // as written
  std::string pattern;  // PCRE2, anchored at the start like Python's re.match
  SpecChange change;
  std::optional<std::string> algorithm;
};

// --lm-head, --embedding: `BITS[:GROUP]` or `keep`. Symmetric integers; without a group, one scale for each row at 8
// bits and for 32 columns below.
struct TableChoice {
  bool keep = true;
  int bits = 8;
  std::optional<size_t> group;
  friend bool operator==(const TableChoice&, const TableChoice&) = default;
};

// Everything that the command line, a recipe and a torchchat dictionary can say about a quantization.
struct QuantizeRequest {
  // The linears of the blocks. With neither a scheme nor a change they are kept, and only rules and tables quantize.
  std::optional<std::string> scheme;
  SpecChange change;
  std::optional<ActivationSpec> activations;  // over the scheme's own
  std::optional<TableChoice> lm_head;
  std::optional<TableChoice> embedding;
  std::vector<std::string> skip;  // patterns
  std::vector<Rule> rules;        // the last match wins
  std::optional<std::string> algorithm;
  std::optional<double> smoothquant;  // alpha, -1 for auto: smoothquant goes before the algorithm
  std::optional<std::string> effort;  // see effort.h; for what is not said otherwise
  std::map<std::string, AlgorithmSettings, std::less<>> settings;  // by algorithm
  CalibrationChange calibration;
  std::optional<std::string> stats;         // file of saved statistics
  std::string ort;                          // ONNX Runtime's library or the folder that holds it; see OnnxRuntime
  std::optional<bool> bf16;                 // arithmetic of the calibration forward; default: where it is fast
  std::optional<bool> true_sequential;      // see StreamOptions; default: but for linears of few bits
  std::optional<ObserverOptions> observer;  // of static inputs
  std::optional<size_t> memory;             // bytes for activations
  std::optional<DType> dtype;               // of what is not quantized
  // Of the scales, where a format's readers expect a type of their own; default: `dtype`.
  std::optional<DType> scale_dtype;
  bool last_matmul = true;     // formats that quantize the head like the linears (ONNX) do so
  int accuracy_level = 0;      // see OutputModel
  bool tensor_ranges = false;  // see OutputModel
  bool fp8_cache = false;      // the output has scales for keys and values in E4M3
  bool allow_fallback = true;  // a preset's group may shrink until it divides the row
};

// All throw Error(kUsage) with the accepted form.
Rule parse_rule(std::string_view text);
TableChoice parse_table(std::string_view text);
// "-1", "0", "64".
size_t parse_group(std::string_view text);
// "fp32", "bf16", "fp16" and their usual other names.
DType parse_float_dtype(std::string_view text);
// "fp32", "bf16", "fp16".
std::string_view float_dtype_name(DType dtype);
// "none", "dynamic" or "static".
ActivationSpec::Mode parse_activation_mode(std::string_view text);
// "token" or "tensor", which is true.
bool parse_dynamic_ranges(std::string_view text);
// "0.5" or "auto", which is -1.
double parse_smoothquant(std::string_view text);
// "none" or "fp8", which is true.
bool parse_cache_scheme(std::string_view text);
// "fp32" or "bf16".
bool parse_calibration_compute(std::string_view text);
// "rtn.clip=0.9", into request.settings.
void parse_setting(std::string_view text, QuantizeRequest& request);

}  // namespace nibble
