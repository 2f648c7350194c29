#include "algo/block_scales.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/half.h"

namespace nibble {
namespace {

using kernels::FitMap;
using kernels::FitSums;
using kernels::kFitGroups;

using Lanes = std::array<float, kFitGroups>;

float half(float x) {
  constexpr float kLargest = 65504;
  return f16_to_f32(f32_to_f16(std::clamp(x, -kLargest, kLargest)));
}

float whole(float x, float low, float high) {
  constexpr float kRound = 12582912;  // to even, for magnitudes below 2^22
  return (std::clamp(x, low, high) + kRound) - kRound;
}

class TwoLevelFit {
 public:
  TwoLevelFit(const kernels::BlockFit& kernel, const kernels::FitGroups& fit, const TwoLevelRange& range)
      : kernel_(kernel), fit_(fit), range_(range) {}

  void start(const FitMap& map) {
    FitSums sums;
    kernel_.measure(fit_, map, &sums);
    for (size_t first = 0; first < kFitGroups; first += range_.groups) {
      float subtracted[kFitGroups];
      for (size_t g = 0; g < range_.groups; ++g) subtracted[g] = -map.min[first + g];
      set_bases(first,
                kernel_.base(map.scale + first, sums.ll + first, range_.groups, static_cast<float>(range_.low),
                             static_cast<float>(range_.high)),
                range_.min_high == 0 ? 0.0f
                                     : kernel_.base(subtracted, sums.w1 + first, range_.groups, 0.0f,
                                                    static_cast<float>(range_.min_high)));
    }
    for (size_t g = 0; g < kFitGroups; ++g) {
      q_[g] = nearest_q(map.scale[g], g);
      p_[g] = nearest_p(map.min[g], g);
    }
    error_ = measured(q_, p_).ee_of();
  }

  // New integers for the bases: neighbours of each group's own.
  void choose_integers() {
    Lanes best_q = q_, best_p = p_, best = error_;
    constexpr float kSteps[] = {0, -1, 1};
    for (const float step : kSteps) {
      Lanes q, p = p_;
      for (size_t g = 0; g < kFitGroups; ++g)
        q[g] = std::clamp(q_[g] + step, static_cast<float>(range_.low), static_cast<float>(range_.high));
      if (range_.min_high == 0) {
        if (step != 0) keep_better(q, p, measured(q, p), best_q, best_p, best);
        continue;
      }
      for (int twice = 0; twice < 2; ++twice) {  // the first min is a guess for another scale
        const Measured at = measured(q, p);
        keep_better(q, p, at, best_q, best_p, best);
        for (size_t g = 0; g < kFitGroups; ++g)
          if (at.sums.w1[g] > 0) p[g] = nearest_p(at.map.min[g] + at.sums.e1[g] / at.sums.w1[g], g);
      }
      keep_better(q, p, measured(q, p), best_q, best_p, best);
    }
    q_ = best_q, p_ = best_p, error_ = best;
  }

  // New bases for the integers, and the integers nearest to what the old ones meant; kept where a block gains.
  void choose_bases() {
    const Measured at = measured(q_, p_);
    const Lanes old_d = d_, old_dmin = dmin_, old_q = q_, old_p = p_, old_error = error_;
    for (size_t first = 0; first < kFitGroups; first += range_.groups) {
      double n11 = 0, n12 = 0, n22 = 0, r1 = 0, r2 = 0;
      for (size_t g = first; g < first + range_.groups; ++g) {
        const double q = q_[g], p = p_[g];
        n11 += q * q * double{at.sums.ll[g]};
        n12 -= q * p * double{at.sums.l1[g]};
        n22 += p * p * double{at.sums.w1[g]};
        r1 += q * double{at.sums.el[g]};
        r2 -= p * double{at.sums.e1[g]};
      }
      const double determinant = n11 * n22 - n12 * n12;
      double d_step = n11 > 0 ? r1 / n11 : 0, dmin_step = 0;
      if (determinant > 1e-9 * n11 * n22) {
        d_step = (r1 * n22 - r2 * n12) / determinant;
        dmin_step = (r2 * n11 - r1 * n12) / determinant;
      }
      set_bases(first, half(static_cast<float>(double{d_[first]} + d_step)),
                half(static_cast<float>(double{dmin_[first]} + dmin_step)));
    }
    error_ = measured(q_, p_).ee_of();
    choose_integers();
    for (size_t first = 0; first < kFitGroups; first += range_.groups) {
      float before = 0, after = 0;
      for (size_t g = first; g < first + range_.groups; ++g) before += old_error[g], after += error_[g];
      if (after < before && (d_[first] > 0) == (old_d[first] > 0) && dmin_[first] >= 0) continue;
      for (size_t g = first; g < first + range_.groups; ++g)
        d_[g] = old_d[g], dmin_[g] = old_dmin[g], q_[g] = old_q[g], p_[g] = old_p[g], error_[g] = old_error[g];
    }
  }

  FitMap map() const { return map_of(q_, p_); }

 private:
  struct Measured {
    FitMap map;
    FitSums sums;
    Lanes ee_of() const {
      Lanes out;
      std::copy_n(sums.ee, kFitGroups, out.begin());
      return out;
    }
  };

  void set_bases(size_t first, float d, float dmin) {
    std::fill_n(d_.begin() + static_cast<std::ptrdiff_t>(first), range_.groups, d);
    std::fill_n(dmin_.begin() + static_cast<std::ptrdiff_t>(first), range_.groups, dmin);
  }

  float nearest_q(float scale, size_t g) const {
    return d_[g] == 0 ? 0.0f : whole(scale / d_[g], static_cast<float>(range_.low), static_cast<float>(range_.high));
  }
  float nearest_p(float min, size_t g) const {
    return dmin_[g] == 0 ? 0.0f : whole(-min / dmin_[g], 0.0f, static_cast<float>(range_.min_high));
  }

  FitMap map_of(const Lanes& q, const Lanes& p) const {
    FitMap map;
    for (size_t g = 0; g < kFitGroups; ++g) map.scale[g] = d_[g] * q[g], map.min[g] = -(dmin_[g] * p[g]);
    return map;
  }

  Measured measured(const Lanes& q, const Lanes& p) const {
    Measured out{map_of(q, p), {}};
    kernel_.measure(fit_, out.map, &out.sums);
    return out;
  }

  static void keep_better(const Lanes& q, const Lanes& p, const Measured& at, Lanes& best_q, Lanes& best_p,
                          Lanes& best) {
    for (size_t g = 0; g < kFitGroups; ++g)
      if (at.sums.ee[g] < best[g]) best[g] = at.sums.ee[g], best_q[g] = q[g], best_p[g] = p[g];
  }

  const kernels::BlockFit& kernel_;
  const kernels::FitGroups& fit_;
  const TwoLevelRange& range_;
  Lanes d_{}, dmin_{};  // of each group's block
  Lanes q_{}, p_{};
  Lanes error_{};
};

}  // namespace

void round_to_two_levels(const kernels::BlockFit& kernel, const kernels::FitGroups& fit, const TwoLevelRange& range,
                         FitMap& map) {
  TwoLevelFit levels(kernel, fit, range);
  levels.start(map);
  levels.choose_integers();
  for (int round = 0; round < range.rounds; ++round) levels.choose_bases();
  map = levels.map();
}

}  // namespace nibble
