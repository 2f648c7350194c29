#pragma once
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/block.h"
#include "quant/input_stats.h"
#include "quant/quantized_matrix.h"

namespace nibble {

// One tunable of an algorithm, as `--set ALGORITHM.NAME=VALUE` and `--help-algorithms` show it.
struct AlgorithmOption {
  std::string_view name;
  double value;      // the default
  double low, high;  // accepted range
  std::string_view help;
};

// Values by option name; complete_settings() fills in the defaults.
using AlgorithmSettings = std::map<std::string, double, std::less<>>;

// Some rows of one linear that are to be rounded.
struct Rounding {
  MatrixView<const float> weight;          // any slice of its rows, all columns, finite
  const QuantSpec& spec;                   // validated
  std::pair<float, float> tensor_range{};  // {min, max} of the whole matrix; with spec.per_tensor only
  const InputFactor* inputs = nullptr;     // null: there is no calibration data
  const QuantizedMatrix* start = nullptr;  // what the algorithm before this one in a chain made of these rows
};

// How much an algorithm makes of a linear's inputs.
enum class InputUse : uint8_t {
  kNone,
  kImportance,  // InputFactor::importance
  kFactor,      // all of it
};

// A way to turn float weights into codes. Immutable and thread-safe.
class Algorithm {
 public:
  virtual ~Algorithm() = default;
  virtual InputUse input_use() const { return InputUse::kNone; }
  // True: without calibration data it cannot work. False: it then does what it can.
  virtual bool needs_inputs() const { return false; }
  // Without calibration data, should InputFactor::importance be what the norm before a linear says: its gains, squared?
  virtual bool wants_gains() const { return false; }
  // How it wants its inputs factored; with input_use() == kFactor only.
  virtual FactorOptions factor_options(const QuantSpec&) const { return {}; }
  // The grid it rounds to when `spec` was asked for (HQQ's zero points are real numbers). Throws Error(kUsage) for
  // grids it cannot round to.
  virtual QuantSpec spec_for(const QuantSpec& spec) const { return spec; }
  // The result's rows do not depend on how the matrix was sliced. Postcondition: result.rows == weight.rows,
  // result.cols == weight.cols, result.spec == spec.
  virtual QuantizedMatrix quantize(const Rounding& rounding) const = 0;
};

// Linears that read the same input, as an equalizer sees them.
struct EqualizerInput {
  std::span<const MatrixView<const float>> weights;  // of each linear: evenly spaced rows, or all
  std::span<const QuantSpec> specs;                  // of each linear
  const InputStats& stats;                           // gram may be empty
  const InputFactor* inputs = nullptr;               // in natural order; null unless needs_factor()
};

// Finds s > 0, [cols]: rounding W diag(s) hurts less than rounding W, and inputs divided by s leave the function as it
// was. The division is folded into whatever makes the input. Immutable and thread-safe.
class Equalizer {
 public:
  virtual ~Equalizer() = default;
  virtual bool needs_factor() const { return false; }
  virtual bool needs_inputs() const {
    return true;
  }  // false: looks at weights alone, EqualizerInput::stats has only cols
  virtual std::vector<float> scales(const EqualizerInput& input) const = 0;
};

// A block, as a trainer sees it.
struct TrainerInput {
  BlockGradient& block;
  std::span<const BlockStage> stages;
  const BlockGradient::Weights& weights;                    // of every linear, whole
  const std::vector<std::vector<const QuantSpec*>>& specs;  // [stages][linears]; null: is not quantized
  const std::vector<bool>& scalable;                        // [stages]: may its columns be scaled?
  std::span<const MatrixView<const float>> documents;       // the residual stream before the block
};

// As Equalizer, but for all stages of a block at once and by the block's output. Immutable and thread-safe.
class Trainer {
 public:
  virtual ~Trainer() = default;
  virtual size_t documents() const = 0;  // how many it wants to see, at most
  // [stages][cols]; of stages that are not scalable: empty. Columns of one producer get the same factor.
  virtual std::vector<std::vector<float>> scales(const TrainerInput& input) const = 0;
  // For linears of a graph that is no known block, by the error of their own outputs: as Equalizer::scales(), with
  // EqualizerInput::inputs given.
  virtual std::vector<float> layer_scales(const EqualizerInput& input) const = 0;
};

struct AlgorithmEntry {
  std::string_view name;
  std::string_view summary;
  std::span<const AlgorithmOption> options;
  // settings complete and in range. Any may be null, not all: an algorithm that equalizes or trains and has `make` too
  // does so wherever it stands in a chain and rounds where it stands last.
  std::unique_ptr<Algorithm> (*make)(const AlgorithmSettings& settings) = nullptr;
  std::unique_ptr<Equalizer> (*make_equalizer)(const AlgorithmSettings& settings) = nullptr;
  std::unique_ptr<Trainer> (*make_trainer)(const AlgorithmSettings& settings) = nullptr;
};

std::span<const AlgorithmEntry> algorithms();
// Throws Error(kUsage) listing what is known.
const AlgorithmEntry& find_algorithm(std::string_view name);
// With the defaults of what is not set. Throws Error(kUsage) for unknown options and values out of range.
AlgorithmSettings complete_settings(const AlgorithmEntry& entry, const AlgorithmSettings& settings);
// Throws Error(kUsage) listing what is known, or when the algorithm only equalizes.
std::unique_ptr<Algorithm> make_algorithm(std::string_view name, const AlgorithmSettings& settings);

}  // namespace nibble
