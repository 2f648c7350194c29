#include "algo/chain.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace nibble {

AlgorithmChain::AlgorithmChain(std::string_view names,
                               const std::map<std::string, AlgorithmSettings, std::less<>>& settings) {
  const AlgorithmEntry* last = nullptr;
  const AlgorithmSettings* last_settings = nullptr;
  static const AlgorithmSettings defaults;
  for (const std::string& name : split(std::string(names), ',')) {
    if (std::find(names_.begin(), names_.end(), name) != names_.end())
      throw Error(ErrorKind::kUsage, cat("algorithm '", name, "' is named twice in '", names, "'"));
    names_.push_back(name);
    const auto found = settings.find(name);
    last_settings = found == settings.end() ? &defaults : &found->second;
    last = &find_algorithm(name);
    if (!last->make_equalizer && !last->make_trainer) {
      roundings_.push_back(make_algorithm(name, *last_settings));
      continue;
    }
    if (!roundings_.empty())
      throw Error(ErrorKind::kUsage, cat("'", names, "': ", name, " prepares weights for rounding; name it before ",
                                         names_[equalizers_.size() + trainers_.size()]));
    if (last->make_trainer) {
      trainers_.push_back(last->make_trainer(complete_settings(*last, *last_settings)));
      continue;
    }
    if (!trainers_.empty())
      throw Error(ErrorKind::kUsage, cat("'", names, "': ", names_[equalizers_.size()], " trains on what ", name,
                                         " makes of the weights; name it behind it"));
    equalizers_.push_back(last->make_equalizer(complete_settings(*last, *last_settings)));
  }
  if (!roundings_.empty()) return;
  roundings_.push_back(last->make ? make_algorithm(last->name, *last_settings) : make_algorithm("rtn", {}));
}

InputUse AlgorithmChain::input_use() const {
  InputUse use = InputUse::kNone;
  for (const auto& rounding : roundings_) use = std::max(use, rounding->input_use());
  return use;
}

bool AlgorithmChain::needs_inputs() const {
  const auto needs = [](const auto& part) { return part->needs_inputs(); };
  return !trainers_.empty() || std::any_of(equalizers_.begin(), equalizers_.end(), needs) ||
         std::any_of(roundings_.begin(), roundings_.end(), needs);
}

bool AlgorithmChain::wants_gains() const { return roundings_.size() == 1 && roundings_.front()->wants_gains(); }

FactorOptions AlgorithmChain::factor_options(const QuantSpec& spec) const {
  for (const auto& rounding : roundings_)
    if (rounding->input_use() == InputUse::kFactor) return rounding->factor_options(spec);
  return {};
}

bool AlgorithmChain::wants_float_inputs(const QuantSpec& spec) const {
  return input_use() == InputUse::kFactor && factor_options(spec).alpha != 0;
}

QuantSpec AlgorithmChain::spec_for(QuantSpec spec) const {
  for (const auto& rounding : roundings_) spec = rounding->spec_for(spec);
  return spec;
}

QuantizedMatrix AlgorithmChain::quantize(Rounding rounding) const {
  QuantizedMatrix result = roundings_.front()->quantize(rounding);
  for (size_t i = 1; i < roundings_.size(); ++i) {
    rounding.start = &result;
    QuantizedMatrix next = roundings_[i]->quantize(rounding);
    result = std::move(next);
  }
  return result;
}

}  // namespace nibble
