#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "algo/group_scale.h"

// Weighted scale search on one group; the parts that GPTQ and its like need for their grids too.
namespace nibble {

// Which maps are tried, relative to the one that just covers the group's range.
struct ScaleSearch {
  double low = 0.4, high = 1.2, step = 0.02;
  bool both_signs = true;  // symmetric integer grids and NF4, whose two halves differ
};

// sum_j h_j (w_j - value(code_j))^2, in double; codes, w and h are equally long.
double weighted_error(const QuantSpec& spec, const GroupScale& map, std::span<const float> w, std::span<const float> h,
                      const uint8_t* codes);

// Sets map.scale to the storable scale nearest to the one that minimises weighted_error for these codes. False (map as
// it was) when the codes do not determine one: all values zero.
bool least_squares_scale(const QuantSpec& spec, std::span<const float> w, std::span<const float> h,
                         const uint8_t* codes, GroupScale& map);

// The maps to try on one group, evaluated together: for each weight, one vectorisable loop over the candidates. Reused
// from group to group, so that nothing is allocated after the first.
class ScaleCandidates {
 public:
  // Symmetric:  p * extreme / -2^(bits-1) for p = low, low + step, ..., high, and their negatives
  // Asymmetric: the range [a lo, b hi], a and b independently low, low + 2 step, ..., 1
  // Tables:     p * absmax / largest |level|
  // 1-bit symmetric groups have no candidates: their least-squares scale is exact.
  void fill(const QuantSpec& spec, const ScaleSearch& search, std::span<const float> w);
  // The candidate of least weighted error (to float precision; the first of equals), or null when there are none.
  const GroupScale* best(const QuantSpec& spec, std::span<const float> w, std::span<const float> h);

 private:
  void push(const GroupScale& map) { maps_.push_back(map); }

  std::vector<GroupScale> maps_;
  std::vector<float> scale_, inverse_, low_, high_, error_;  // [maps_]
};

}  // namespace nibble
