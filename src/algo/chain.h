#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "algo/algorithm.h"

namespace nibble {

// What `--algorithm awq,search,gptq` means: what prepares the weights first, equalizers and then trainers, in this
// order; then roundings, each starting from the result of the one before. Where no rounding is named, the last one's
// own follows, or round to nearest.
class AlgorithmChain {
 public:
  // `settings` by algorithm name; names that are not in the chain are ignored. Throws Error(kUsage) for unknown names,
  // repetitions, bad settings, equalizers behind a trainer and either behind a rounding.
  AlgorithmChain(std::string_view names, const std::map<std::string, AlgorithmSettings, std::less<>>& settings);

  const std::vector<std::string>& names() const { return names_; }
  const std::vector<std::unique_ptr<const Equalizer>>& equalizers() const { return equalizers_; }
  const std::vector<std::unique_ptr<const Trainer>>& trainers() const { return trainers_; }
  bool prepares() const { return !equalizers_.empty() || !trainers_.empty(); }  // does it scale columns?
  InputUse input_use() const;                                 // the most that any rounding makes of its inputs
  bool needs_inputs() const;                                  // does it need calibration data?
  bool wants_gains() const;                                   // does its one rounding?
  FactorOptions factor_options(const QuantSpec& spec) const;  // of the first rounding that uses the factor
  bool wants_float_inputs(const QuantSpec& spec) const;       // those of the float model too: InputStats::cross
  QuantSpec spec_for(QuantSpec spec) const;
  QuantizedMatrix quantize(Rounding rounding) const;

 private:
  std::vector<std::string> names_;
  std::vector<std::unique_ptr<const Equalizer>> equalizers_;
  std::vector<std::unique_ptr<const Trainer>> trainers_;
  std::vector<std::unique_ptr<const Algorithm>> roundings_;  // at least one
};

}  // namespace nibble
