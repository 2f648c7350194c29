#include <algorithm>
#include <cmath>
#include <vector>

#include "algo/algorithm.h"
#include "algo/each_group.h"
#include "algo/grid_fit.h"

namespace nibble {
namespace {

constexpr AlgorithmOption kOptions[] = {
    {"power", 1.0, 0.0, 4.0, "without calibration data a weight w counts |w|^power times; 0 is plain squared error"},
    {"low", 0.4, 0.1, 1.0, "smallest scale tried, as a fraction of the one that covers the group's range"},
    {"high", 1.2, 1.0, 2.0, "largest scale tried (symmetric and table grids)"},
    {"step", 0.02, 0.005, 0.5,
     "distance of the scales tried; asymmetric grids, searched in two dimensions, use twice that"},
    {"signed", 1, 0, 1, "1: symmetric grids may use negative scales, so that either end gets the extra code"},
    {"refits", 3, 0, 20, "rounds of least-squares scale for fixed codes, then new codes"},
};

// Gives each group the map of GridFit. h is the mean square of the inputs where there is calibration data, else
// |w|^power. A grid with one scale per tensor is rounded to nearest: no single slice of rows could choose for all.
class Search final : public Algorithm {
 public:
  explicit Search(const AlgorithmSettings& settings) : power_(static_cast<float>(settings.find("power")->second)) {
    options_.search.low = settings.find("low")->second;
    options_.search.high = settings.find("high")->second;
    options_.search.step = settings.find("step")->second;
    options_.search.both_signs = settings.find("signed")->second != 0;
    options_.refits = static_cast<int>(settings.find("refits")->second);
  }

  InputUse input_use() const override { return InputUse::kImportance; }

  QuantizedMatrix quantize(const Rounding& rounding) const override {
    const QuantSpec& spec = rounding.spec;
    if (spec.per_tensor)
      return quantize_tensor(rounding.weight, spec,
                             fit_range(spec, rounding.tensor_range.first, rounding.tensor_range.second, 1.0f));
    GridFit grid(options_);
    std::vector<float> powers;
    return quantize_groups(rounding.weight, spec, [&](std::span<const float> group, size_t begin, uint8_t* codes) {
      if (rounding.inputs != nullptr)
        return grid.fit(spec, group, std::span(rounding.inputs->importance).subspan(begin, group.size()), codes);
      weigh(group, powers);
      return grid.fit(spec, group, powers, codes);
    });
  }

 private:
  void weigh(std::span<const float> w, std::vector<float>& h) const {
    h.resize(w.size());
    float largest = 0;
    for (float x : w) largest = std::max(largest, std::abs(x));
    // Relative to the largest, so that squares of tiny or huge weights neither vanish nor overflow.
    const float unit = largest > 0 ? largest : 1.0f;
    for (size_t i = 0; i < w.size(); ++i) {
      const float x = std::abs(w[i]) / unit;
      h[i] = power_ == 1.0f ? x : std::pow(x, power_);
    }
  }

  GridFitOptions options_;
  float power_;
};

}  // namespace

extern const AlgorithmEntry search_algorithm;
const AlgorithmEntry search_algorithm = {
    .name = "search",
    .summary =
        "round to nearest with the scale (and zero point) of least weighted error in each group; weights are the "
        "inputs' mean squares, or |w| without data",
    .options = kOptions,
    .make = [](const AlgorithmSettings& settings) -> std::unique_ptr<Algorithm> {
      return std::make_unique<Search>(settings);
    },
};

}  // namespace nibble
