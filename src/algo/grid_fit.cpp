#include "algo/grid_fit.h"

#include <algorithm>

namespace nibble {

GroupScale GridFit::fit(const QuantSpec& spec, std::span<const float> w, std::span<const float> h, uint8_t* codes) {
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

}  // namespace nibble
