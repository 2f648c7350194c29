#pragma once
#include <cstddef>
#include <cstdint>

// Fitting sixteen groups of weights at once to maps value = scale * level + min, by weighted squared error.
namespace nibble::kernels {

struct Table;

inline constexpr size_t kFitGroups = 16;

// Groups side by side: element i of group g at [i * kFitGroups + g].
struct FitGroups {
  const float* x;  // [n, kFitGroups], finite
  const float* w;  // [n, kFitGroups], >= 0
  size_t n;
  const float* levels;  // [16] ascending; null: the integers low, low + 1, ..., high
  float low, high;      // low <= 0 < high, |low|, high < 2^20
  bool with_min;        // otherwise min is 0
  bool positive_min;    // may min be above 0?
};

// One value for each group.
struct FitMap {
  float scale[kFitGroups], min[kFitGroups];
};

// Of the levels nearest to (x - min) / scale, which a map gives, with e = x - (scale * level + min).
struct FitSums {
  float ee[kFitGroups];  // sum w e^2
  float el[kFitGroups];  // sum w e level
  float ll[kFitGroups];  // sum w level^2
  float e1[kFitGroups];  // sum w e; this and the next two only with mins, else 0
  float l1[kFitGroups];  // sum w level
  float w1[kFitGroups];  // sum w
};

struct BlockFit {
  // Tries the scales range / factors[i], range being the largest weight in magnitude with its sign, or with mins the
  // distance between the largest and the smallest weight (0 included unless positive_min), each corrected by least
  // squares (a min that is not to be positive becomes 0, a scale keeps its sign); then `refits` times the levels of the
  // best map so far, corrected again. A group without range gets 0.
  void (*search)(const FitGroups& groups, const float* factors, size_t count, int refits, FitMap* map) noexcept;
  void (*measure)(const FitGroups& groups, const FitMap& map, FitSums* sums) noexcept;
  // codes: [n, kFitGroups]: level - low, or the index of a level.
  void (*encode)(const FitGroups& groups, const FitMap& map, uint8_t* codes) noexcept;
};

// With the instructions of `table`. A group's result does not depend on the others; tables differ in nothing but speed.
const BlockFit& block_fit(const Table& table);

}  // namespace nibble::kernels
