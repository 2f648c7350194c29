#include "algo/scale_gradient.h"

#include <algorithm>

#include "core/threads.h"

namespace nibble {
namespace {

constexpr size_t kRows = 32;  // of one task

// The columns that make a group's range, and what goes to them.
class GroupRange {
 public:
  void add(size_t column, float value, double term) {
    if (value < low_) low_ = value, low_column_ = column;
    if (value > high_) high_ = value, high_column_ = column;
    sum_ += term;
  }

  void take_from(bool symmetric, double* sums) const {
    if (low_ == high_) return;  // all zeros
    if (symmetric) {
      sums[high_ > -low_ ? high_column_ : low_column_] -= sum_;
      return;
    }
    const double range = double{high_} - double{low_};
    sums[high_column_] -= sum_ * double{high_} / range;
    sums[low_column_] += sum_ * double{low_} / range;
  }

 private:
  float low_ = 0, high_ = 0;  // ranges include 0
  size_t low_column_ = 0, high_column_ = 0;
  double sum_ = 0;
};

}  // namespace

std::vector<double> scale_gradient(MatrixView<const float> weight, MatrixView<const float> rounded,
                                   MatrixView<const float> gradient, const QuantSpec& spec,
                                   std::span<const float> scales) {
  const size_t cols = weight.cols, group = std::max<size_t>(spec.group_size(cols), 1);
  const size_t grain = spec.per_tensor ? std::max<size_t>(weight.rows, 1) : kRows;
  std::vector<double> partial((weight.rows + grain - 1) / grain * cols);  // [tasks, cols]: their sum has one order
  parallel_for(weight.rows, grain, [&](size_t first, size_t last) {
    double* const sums = partial.data() + first / grain * cols;
    GroupRange range;
    for (size_t r = first; r < last; ++r)
      for (size_t begin = 0; begin < cols; begin += group) {
        if (!spec.per_tensor) range = {};
        for (size_t c = begin; c < std::min(cols, begin + group); ++c) {
          const float w = weight.row(r)[c];
          const double term = double{gradient.row(r)[c]} * (double{w} - double{rounded.row(r)[c]});
          sums[c] += term;
          range.add(c, w * scales[c], term);
        }
        if (!spec.per_tensor) range.take_from(spec.symmetric, sums);
      }
    if (spec.per_tensor) range.take_from(spec.symmetric, sums);
  });
  std::vector<double> sums(cols);
  for (size_t i = 0; i < partial.size(); ++i) sums[i % cols] += partial[i];
  return sums;
}

}  // namespace nibble
