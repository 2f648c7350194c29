#include <algorithm>
#include <cmath>
#include <vector>

#include "algo/algorithm.h"
#include "algo/each_group.h"
#include "algo/scale_candidates.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

constexpr AlgorithmOption kOptions[] = {
    {"power", 1.0, 0.0, 4.0, "a weight w counts |w|^power times; 0 is plain squared error"},
    {"low", 0.4, 0.1, 1.0, "smallest scale tried, as a fraction of the one that covers the group's range"},
    {"high", 1.2, 1.0, 2.0, "largest scale tried (symmetric and table grids)"},
    {"step", 0.02, 0.005, 0.5,
     "distance of the scales tried; asymmetric grids, searched in two dimensions, use twice that"},
    {"signed", 1, 0, 1, "1: symmetric grids may use negative scales, so that either end gets the extra code"},
    {"refits", 3, 0, 20, "rounds of least-squares scale for fixed codes, then new codes"},
};

// Searches each group's scale (and zero point) for the least weighted squared error sum_j h_j (w_j - w^_j)^2, h =
// |w|^power while there is no calibration data. The candidates are those of the usual "opt-RTN": the round-to-nearest
// map, multiples of the full-range scale with both signs, or shrinks of either end of the range. The best one is
// refined by alternating the closed-form scale s = sum(h w u) / sum(h u^2), u = grid(code) - zero, with rounding to it.
// A grid with one scale per tensor is rounded to nearest: no single slice of rows could choose for all.
class Search final : public Algorithm {
 public:
  explicit Search(const AlgorithmSettings& settings)
      : power_(static_cast<float>(settings.find("power")->second)),
        refits_(static_cast<int>(settings.find("refits")->second)) {
    options_.low = settings.find("low")->second;
    options_.high = settings.find("high")->second;
    options_.step = settings.find("step")->second;
    options_.both_signs = settings.find("signed")->second != 0;
  }

  QuantizedMatrix quantize(const Rounding& rounding) const override {
    const QuantSpec& spec = rounding.spec;
    if (spec.per_tensor)
      return quantize_tensor(rounding.weight, spec,
                             fit_range(spec, rounding.tensor_range.first, rounding.tensor_range.second, 1.0f));
    Scratch scratch;
    return quantize_groups(rounding.weight, spec, [&](std::span<const float> group, uint8_t* codes) {
      return search_group(spec, group, scratch, codes);
    });
  }

 private:
  struct Scratch {
    std::vector<float> importance;
    std::vector<uint8_t> trial;
    ScaleCandidates candidates;
  };

  GroupScale search_group(const QuantSpec& spec, std::span<const float> w, Scratch& scratch, uint8_t* codes) const {
    const GroupScale nearest = fit_group(spec, w, 1.0f);
    weigh(w, scratch.importance);
    const std::span<const float> h = scratch.importance;

    GroupScale best = nearest;
    encode_group(spec, best, w, codes);
    double best_error = weighted_error(spec, best, w, h, codes);
    if (best_error == 0) return best;

    scratch.trial.resize(w.size());
    const auto consider = [&](const GroupScale& map) {
      encode_group(spec, map, w, scratch.trial.data());
      const double error = weighted_error(spec, map, w, h, scratch.trial.data());
      if (!(error < best_error)) return false;
      best = map;
      best_error = error;
      std::copy(scratch.trial.begin(), scratch.trial.end(), codes);
      return true;
    };

    scratch.candidates.fill(spec, options_, w);
    if (const GroupScale* found = scratch.candidates.best(spec, w, h)) consider(*found);
    for (int i = 0; i < refits_; ++i) {
      GroupScale refit = best;
      if (!least_squares_scale(spec, w, h, codes, refit) || !consider(refit)) break;
    }
    return best;
  }

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

  ScaleSearch options_;
  float power_;
  int refits_;
};

}  // namespace

extern const AlgorithmEntry search_algorithm;
const AlgorithmEntry search_algorithm = {
    .name = "search",
    .summary = "round to nearest with the scale (and zero point) of least weighted error in each group; no data needed",
    .options = kOptions,
    .make = [](const AlgorithmSettings& settings) -> std::unique_ptr<Algorithm> {
      return std::make_unique<Search>(settings);
    },
};

}  // namespace nibble
