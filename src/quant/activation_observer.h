#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "core/tensor.h"
#include "quant/spec.h"
#include "quant/value_histogram.h"

namespace nibble {

// How the range of static activations is chosen from the values that calibration saw.
struct ObserverOptions {
  enum class Kind : uint8_t {
    kMinMax,      // all values fit
    kPercentile,  // `percentile` % of them, as many left out below as above
    kEntropy,     // least Kullback-Leibler divergence of the rounded values' histogram
  };
  Kind kind = Kind::kMinMax;
  double percentile = 99.99;
  friend bool operator==(const ObserverOptions&, const ObserverOptions&) = default;
};

// "minmax", "percentile", "percentile:99.9", "entropy". Throws Error(kUsage).
ObserverOptions parse_observer(std::string_view text);
std::string describe(const ObserverOptions& options);

struct ValueRange {
  float low = 0, high = 0;
};

// The quantizer that spans a range, 0 included: bits, grid and symmetry from `spec`, mode kStatic.
//   symmetric   s = max(|low|, |high|) / (2^(bits-1) - 1)
//   asymmetric  s = (high - low) / (2^bits - 1), z = rint(-low / s)
//   FP8         s = max(|low|, |high|) / 448
// The scale is one that `dtype` holds, and positive.
ActivationSpec spanning(const ActivationSpec& spec, ValueRange range, DType dtype);

// Watches the inputs of linears that are to have one range for all tokens.
class ActivationObserver {
 public:
  explicit ActivationObserver(const ObserverOptions& options) : options_(options) {}

  // x: [tokens, cols], finite; parallel. The order of calls does not matter.
  void add(MatrixView<const float> x);
  ValueRange range(const ActivationSpec& spec) const;
  ActivationSpec chosen(const ActivationSpec& spec, DType dtype) const { return spanning(spec, range(spec), dtype); }

 private:
  ObserverOptions options_;
  ValueHistogram histogram_;  // of kMinMax: empty
  ValueRange seen_;           // 0 included
};

// The range of ObserverOptions::Kind::kPercentile, widened to whole bins but not beyond what was seen.
ValueRange percentile_range(const ValueHistogram& histogram, double percentile);
// The range of kEntropy: [max(-t, smallest), min(t, largest)], where t is one of the largest magnitude times
// 2^(-i / 8), not below 2^bits bins. The reference is the histogram with what lies outside moved to its end bins, the
// candidate what 2^bits levels across the range make of the bins within it, each level's count spread evenly over the
// bins that had values (the method of TensorRT's calibrator, S. Migacz, GTC 2017).
ValueRange entropy_range(const ValueHistogram& histogram, const ActivationSpec& spec);

}  // namespace nibble
