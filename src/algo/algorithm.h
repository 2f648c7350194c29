#pragma once
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/quantized_matrix.h"

namespace nibble {

// One tunable of an algorithm, as `--set ALGORITHM.NAME=VALUE` and `--help-algorithms` show it.
struct AlgorithmOption {
  std::string_view name;
  double value;      // the default
  double low, high;  // accepted range
  std::string_view help;
};

// Values by option name; make_algorithm() fills in defaults and refuses unknown names and values out of range.
using AlgorithmSettings = std::map<std::string, double, std::less<>>;

// A way to turn float weights into codes. Immutable and thread-safe.
class Algorithm {
 public:
  virtual ~Algorithm() = default;
  // Rounds rows of one linear: `weight` is any slice of its rows, all columns, finite. The result's rows do not depend
  // on how the matrix was sliced. `spec` has been validated; with spec.per_tensor, `tensor_range` gives the whole
  // matrix's {min, max}. Postcondition: result.rows == weight.rows, result.cols == weight.cols, result.spec == spec.
  virtual QuantizedMatrix quantize(MatrixView<const float> weight, const QuantSpec& spec,
                                   std::pair<float, float> tensor_range) const = 0;
};

struct AlgorithmEntry {
  std::string_view name;
  std::string_view summary;
  std::span<const AlgorithmOption> options;
  std::unique_ptr<Algorithm> (*make)(const AlgorithmSettings& settings);  // settings complete and in range
};

std::span<const AlgorithmEntry> algorithms();
// Throws Error(kUsage) listing what is known.
std::unique_ptr<Algorithm> make_algorithm(std::string_view name, const AlgorithmSettings& settings);

}  // namespace nibble
