#include "algo/grid_fit.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nibble {

GroupScale GridFit::fit(const QuantSpec& spec, std::span<const float> w, std::span<const float> h, uint8_t* codes) {
  if (options_.norm != 2) return fit_norm(spec, w, h, codes);
  GroupScale best = fit_group(spec, w, 1.0f);
  encode_group(spec, best, w, codes);
  double best_error = weighted_error(spec, best, w, h, codes);
  if (best_error == 0) return best;

  trial_.resize(w.size());
  const auto consider = [&](const GroupScale& map) {
    encode_group(spec, map, w, trial_.data());
    const double error = weighted_error(spec, map, w, h, trial_.data());
    if (!(error < best_error)) return false;
    best = map;
    best_error = error;
    std::copy(trial_.begin(), trial_.end(), codes);
    return true;
  };

  candidates_.fill(spec, options_.search, w);
  if (const GroupScale* found = candidates_.best(spec, w, h)) consider(*found);
  for (int i = 0; i < options_.refits; ++i) {
    GroupScale refit = best;
    if (!least_squares_scale(spec, w, h, codes, refit) || !consider(refit)) break;
  }
  return best;
}

GroupScale GridFit::fit_norm(const QuantSpec& spec, std::span<const float> w, std::span<const float> h,
                             uint8_t* codes) {
  constexpr int kShrinks = 80;
  GroupScale best;
  double least = std::numeric_limits<double>::infinity();
  trial_.resize(w.size());
  for (int i = 0; i < kShrinks; ++i) {
    const GroupScale map = fit_group(spec, w, 1 - 0.01f * static_cast<float>(i));
    encode_group(spec, map, w, trial_.data());
    double error = 0;
    for (size_t j = 0; j < w.size(); ++j)
      error += double{h[j]} *
               std::pow(std::abs(double{w[j]} - double{map.scale * code_value(spec, map, trial_[j])}), options_.norm);
    if (!(error < least)) continue;
    best = map;
    least = error;
    std::copy(trial_.begin(), trial_.end(), codes);
  }
  return best;
}

}  // namespace nibble
