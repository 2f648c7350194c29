#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "algo/scale_candidates.h"

namespace nibble {

struct GridFitOptions {
  ScaleSearch search;
  int refits = 3;  // rounds of least-squares scale for fixed codes, then new codes
  // Other than 2: of least sum_j h_j |w_j - w^_j|^norm among the round-to-nearest map and those of its range shrunk by
  // .01, .02 ... .79, as GPTQ's first code searches (Frantar et al. 2022; norm 2.4 there).
  double norm = 2;
};

// Finds a group's scale (and zero point) of least weighted squared error sum_j h_j (w_j - w^_j)^2. The candidates are
// those of the usual "opt-RTN": the round-to-nearest map, multiples of the full-range scale with both signs, or shrinks
// of either end of the range. The best one is refined by alternating the closed-form scale s = sum(h w u) / sum(h u^2),
// u = grid(code) - zero, with rounding to it. Reused from group to group, so that nothing is allocated after the first.
class GridFit {
 public:
  explicit GridFit(const GridFitOptions& options) : options_(options) {}
  // w, h >= 0 and codes, which is written, are equally long; spec has no mins.
  GroupScale fit(const QuantSpec& spec, std::span<const float> w, std::span<const float> h, uint8_t* codes);

 private:
  GroupScale fit_norm(const QuantSpec& spec, std::span<const float> w, std::span<const float> h, uint8_t* codes);

  GridFitOptions options_;
  std::vector<uint8_t> trial_;
  ScaleCandidates candidates_;
};

}  // namespace nibble
