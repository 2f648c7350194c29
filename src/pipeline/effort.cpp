#include "pipeline/effort.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace nibble {
namespace {

struct Setting {
  std::string_view algorithm, option;
  double value;
};

struct Effort {
  std::string_view name;
  std::string_view algorithm;
  size_t samples;  // 0: no calibration
  std::vector<Setting> settings;
};

const std::vector<Effort>& levels() {
  static const std::vector<Effort> all = {
      {"fast", "search", 0, {}},
      {"balanced", "gptq", 32, {}},
      {"best", "awq,gptq", 64, {{"gptq", "passes", 4}, {"gptq", "sweeps", 4}}},
  };
  return all;
}

}  // namespace

std::vector<std::string_view> effort_names() {
  std::vector<std::string_view> names;
  for (const Effort& level : levels()) names.push_back(level.name);
  return names;
}

void apply_effort(std::string_view name, QuantizeRequest& request) {
  const auto level =
      std::find_if(levels().begin(), levels().end(), [&](const Effort& e) { return e.name == lower(name); });
  if (level == levels().end()) {
    std::vector<std::string> known;
    for (const std::string_view each : effort_names()) known.emplace_back(each);
    throw Error(ErrorKind::kUsage, cat("unknown effort '", name, "'; known are ", join(known, ", ")));
  }
  if (request.algorithm) return;  // whoever names an algorithm has chosen the effort
  request.algorithm = level->algorithm;
  if (level->samples != 0 && !request.calibration.samples) request.calibration.samples = level->samples;
  for (const Setting& setting : level->settings)
    request.settings[std::string(setting.algorithm)].emplace(setting.option, setting.value);
}

}  // namespace nibble
