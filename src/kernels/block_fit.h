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

// Groups of a matrix that are to be laid side by side.
struct FitSource {
  const float* weights[kFitGroups];     // [n] each
  const float* importance[kFitGroups];  // [n] each, >= 0; all null when unknown
  float unit[kFitGroups];               // 1 / the size of the weights around the group
};

// The trial bases of fit_base: extreme / (limit * kBaseStretch[i]).
inline constexpr size_t kBaseTrials = 16;
inline constexpr float kBaseStretch[kBaseTrials] = {1.0f,   1.007f, 0.993f, 1.015f, 0.985f, 1.03f, 0.97f, 1.045f,
                                                    0.955f, 1.06f,  0.94f,  1.08f,  0.92f,  1.1f,  0.9f,  0.86f};

struct BlockFit {
  // x[i * kFitGroups + g] = weights[g][i], w likewise importance * sqrt(1 + r^2), without importance 1 + |r|, with
  // r = weight * unit. n is 16 or 32.
  void (*arrange)(const FitSource& source, size_t n, float* x, float* w) noexcept;
  // Tries the scales range / factors[i], range being the largest weight in magnitude with its sign, or with mins the
  // distance between the largest and the smallest weight (0 included unless positive_min), each corrected by least
  // squares (a min that is not to be positive becomes 0, a scale keeps its sign); then `refits` times the levels of the
  // best map so far, corrected again. A group without range gets 0.
  void (*search)(const FitGroups& groups, const float* factors, size_t count, int refits, FitMap* map) noexcept;
  void (*measure)(const FitGroups& groups, const FitMap& map, FitSums* sums) noexcept;
  // codes: [kFitGroups, n]: level - low, or the index of a level.
  void (*encode)(const FitGroups& groups, const FitMap& map, uint8_t* codes) noexcept;
  // The F16 d for which whole numbers in [low, high] times d come nearest to `values`, by squared error times
  // `weights`: bases are tried at both ends of the range and around them, each corrected by least squares. 0 when all
  // values are. count <= kFitGroups; -2^20 < low <= 0 < high < 2^20.
  float (*base)(const float* values, const float* weights, size_t count, float low, float high) noexcept;
};

// With the instructions of `table`. A group's result does not depend on the others; tables differ in nothing but speed.
const BlockFit& block_fit(const Table& table);

}  // namespace nibble::kernels
