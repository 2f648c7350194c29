#include "pipeline/presets.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/text.h"

namespace nibble {
namespace {

constexpr size_t kRow = QuantSpec::kWholeRow;
constexpr auto kDynamic = ActivationSpec::Mode::kDynamicPerToken, kStatic = ActivationSpec::Mode::kStatic;

struct Row {
  std::string_view name;
  std::string_view aliases;  // lower case, separated by spaces
  int bits;
  size_t group;
  bool symmetric;
  Grid grid;
  ActivationSpec activations;
  double smoothquant = -1;  // below 0: none
};

// One range for all tokens: columns of large inputs must give way. Chosen on text kept apart (docs/onnx.md).
constexpr double kSmooth = 0.7;

constexpr std::array kPresets = {
    Row{"W4A16", "", 4, 128, true, Grid::kInt, {}},
    Row{"W4A16-asym", "", 4, 128, false, Grid::kInt, {}},
    Row{"W3A16", "", 3, 64, false, Grid::kInt, {}},
    Row{"W2A16", "", 2, 64, false, Grid::kInt, {}},
    Row{"W8A16", "", 8, kRow, true, Grid::kInt, {}},
    Row{"int4-asym-g32", "", 4, 32, false, Grid::kInt, {}},
    Row{"int4-sym-g128", "", 4, 128, true, Grid::kInt, {}},
    Row{"int4-asym-g128", "", 4, 128, false, Grid::kInt, {}},
    Row{"NF4", "", 4, 64, true, Grid::kNF4, {}},
    Row{"FP8", "", 8, kRow, true, Grid::kFP8, {kDynamic, 8, true, Grid::kFP8}},
    Row{"W8A8", "", 8, kRow, true, Grid::kInt, {kDynamic, 8, true, Grid::kInt}},
    Row{"W8A8-static", "", 8, kRow, true, Grid::kInt, {kStatic, 8, true, Grid::kInt}, kSmooth},
    Row{"a8w4dq", "8da4w w4a8", 4, 32, true, Grid::kInt, {kDynamic, 8, false, Grid::kInt}},
    Row{"a6w4dq", "", 4, 32, true, Grid::kInt, {kDynamic, 6, false, Grid::kInt}},
};

}  // namespace

Preset find_preset(std::string_view name) {
  std::string key = lower(name);
  std::replace(key.begin(), key.end(), '_', '-');
  for (const Row& row : kPresets) {
    const std::vector<std::string> aliases = split(row.aliases, ' ');
    if (key != lower(row.name) && std::find(aliases.begin(), aliases.end(), key) == aliases.end()) continue;
    QuantSpec spec;
    spec.bits = row.bits;
    spec.group = row.group;
    spec.symmetric = row.symmetric;
    spec.grid = row.grid;
    return {std::string(row.name), spec, row.activations,
            row.smoothquant < 0 ? std::nullopt : std::optional(row.smoothquant)};
  }
  throw Error(ErrorKind::kUsage, cat("unknown scheme '", name, "'; known are ", join(preset_names(), ", ")));
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  names.reserve(std::size(kPresets));
  for (const Row& row : kPresets) names.emplace_back(row.name);
  return names;
}

}  // namespace nibble
