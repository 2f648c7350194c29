#include "quant/value_histogram.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "core/threads.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

constexpr auto kMiddle = static_cast<double>(ValueHistogram::kSide);

bool holds(double width, float low, float high) {
  return double{low} >= -kMiddle * width && double{high} < kMiddle * width;
}

}  // namespace

void ValueHistogram::reach(float low, float high) {
  const double largest = std::max(std::abs(double{low}), std::abs(double{high}));
  if (largest == 0) return;
  if (width_ == 0) {
    width_ = std::exp2(std::ilogb(largest)) / kMiddle;
    // Zeros, all that came so far, stay in the bin that begins at 0.
  }
  while (!holds(width_, low, high)) {
    std::vector<uint64_t> wider(2 * kSide);
    for (size_t i = 0; i < counts_.size(); ++i) wider[(i + kSide) / 2] += counts_[i];
    counts_ = std::move(wider);
    width_ *= 2;
  }
}

void ValueHistogram::add(MatrixView<const float> x) {
  if (x.rows == 0 || x.cols == 0) return;
  float low = std::numeric_limits<float>::infinity(), high = -low;
  for (size_t r = 0; r < x.rows; ++r) {
    float row_low = 0, row_high = 0;
    kernels::active().min_max(x.row(r), x.cols, &row_low, &row_high);
    low = std::min(low, row_low), high = std::max(high, row_high);
  }
  reach(low, high);
  low_ = std::min(low_, low), high_ = std::max(high_, high);
  total_ += x.rows * x.cols;
  const double scale = width_ == 0 ? 0 : 1 / width_;
  std::mutex mutex;
  const size_t grain = std::max<size_t>(1, (x.rows + thread_count() - 1) / thread_count());
  parallel_for(x.rows, grain, [&](size_t begin, size_t end) {
    std::vector<uint64_t> counts(2 * kSide);
    for (size_t r = begin; r < end; ++r)
      for (size_t c = 0; c < x.cols; ++c)
        ++counts[static_cast<size_t>(static_cast<int64_t>(std::floor(double{x.row(r)[c]} * scale)) +
                                     static_cast<int64_t>(kSide))];
    const std::lock_guard lock(mutex);
    for (size_t i = 0; i < counts.size(); ++i) counts_[i] += counts[i];
  });
}

}  // namespace nibble
