#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quant/spec.h"

namespace nibble {

struct Preset {
  std::string name;  // canonical spelling
  QuantSpec spec;    // scale_dtype unset: the plan decides
  ActivationSpec activations;
  std::optional<double> smoothquant{};  // alpha, where nobody names an algorithm
};

// Case-insensitive, `_` = `-`. Throws Error(kUsage) listing the presets; for a scheme that needs calibration it names
// the dynamic one instead.
Preset find_preset(std::string_view name);
// Canonical names, without aliases.
std::vector<std::string> preset_names();

}  // namespace nibble
