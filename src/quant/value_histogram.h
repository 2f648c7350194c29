#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/tensor.h"

namespace nibble {

// Counts values in 2 * kSide bins of one width, a power of two: bin i holds [(i - kSide) width, (i - kSide + 1) width).
// The width doubles, and neighbours become one, as soon as a value lies outside: the counts are those of a histogram
// that knew all values beforehand, in whatever order they came.
class ValueHistogram {
 public:
  static constexpr size_t kSide = 8192;

  // Finite values; parallel.
  void add(MatrixView<const float> x);

  size_t total() const { return total_; }
  float low() const { return low_; }    // smallest value; infinity when there is none
  float high() const { return high_; }  // largest
  double width() const { return width_; }
  const std::vector<uint64_t>& counts() const { return counts_; }  // [2 kSide]

 private:
  void reach(float low, float high);

  std::vector<uint64_t> counts_ = std::vector<uint64_t>(2 * kSide);
  double width_ = 0;  // 0: nothing but zeros so far
  size_t total_ = 0;
  float low_ = std::numeric_limits<float>::infinity(), high_ = -std::numeric_limits<float>::infinity();
};

}  // namespace nibble
