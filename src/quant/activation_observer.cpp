#include "quant/activation_observer.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/half.h"
#include "core/text.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

constexpr float kLargestE4M3 = 448.0f;

// The nearest positive number of the type.
float storable(float value, DType dtype) {
  if (dtype == DType::kBF16) value = bf16_to_f32(f32_to_bf16(value));
  if (dtype == DType::kF16) value = f16_to_f32(f32_to_f16(std::clamp(value, 0x1p-14f, 65504.0f)));
  return std::clamp(value, std::numeric_limits<float>::min(), std::numeric_limits<float>::max());
}

ValueRange with_zero(ValueRange range) { return {std::min(range.low, 0.0f), std::max(range.high, 0.0f)}; }

}  // namespace

ObserverOptions parse_observer(std::string_view text) {
  const std::string name = lower(text);
  if (name == "minmax") return {};
  if (name == "entropy") return {ObserverOptions::Kind::kEntropy, {}};
  if (name == "percentile") return {.kind = ObserverOptions::Kind::kPercentile};
  constexpr std::string_view kPrefix = "percentile:";
  if (name.starts_with(kPrefix)) {
    ObserverOptions options{.kind = ObserverOptions::Kind::kPercentile};
    const char *begin = name.data() + kPrefix.size(), *end = name.data() + name.size();
    const auto [stop, failed] = std::from_chars(begin, end, options.percentile);
    if (failed == std::errc() && stop == end && options.percentile > 50 && options.percentile <= 100) return options;
  }
  throw Error(ErrorKind::kUsage, cat("'", text,
                                     "' chooses no range; known are minmax, percentile[:P] with P above 50 and up to "
                                     "100, entropy"));
}

std::string describe(const ObserverOptions& options) {
  if (options.kind == ObserverOptions::Kind::kMinMax) return "minmax";
  if (options.kind == ObserverOptions::Kind::kEntropy) return "entropy";
  return cat("percentile:", options.percentile);
}

ActivationSpec spanning(const ActivationSpec& spec, ValueRange range, DType dtype) {
  range = with_zero(range);
  ActivationSpec chosen = spec;
  chosen.mode = ActivationSpec::Mode::kStatic;
  const float largest = std::max(-range.low, range.high);
  const auto top = static_cast<float>((1 << spec.bits) - 1);
  const bool affine = spec.grid == Grid::kInt && !spec.symmetric;
  float scale = largest / kLargestE4M3;
  if (affine)
    scale = (range.high - range.low) / top;
  else if (spec.grid == Grid::kInt)
    scale = largest / std::max(static_cast<float>((1 << (spec.bits - 1)) - 1), 1.0f);
  chosen.scale = largest == 0 ? 1.0f : storable(scale, dtype);
  chosen.zero = affine ? static_cast<int>(std::clamp(std::nearbyint(-range.low / chosen.scale), 0.0f, top)) : 0;
  return chosen;
}

void ActivationObserver::add(MatrixView<const float> x) {
  if (options_.kind != ObserverOptions::Kind::kMinMax) return histogram_.add(x);
  for (size_t r = 0; r < x.rows; ++r) {
    float low = 0, high = 0;
    kernels::active().min_max(x.row(r), x.cols, &low, &high);
    seen_ = {std::min(seen_.low, low), std::max(seen_.high, high)};
  }
}

ValueRange ActivationObserver::range(const ActivationSpec& spec) const {
  switch (options_.kind) {
    case ObserverOptions::Kind::kPercentile:
      return percentile_range(histogram_, options_.percentile);
    case ObserverOptions::Kind::kEntropy:
      return entropy_range(histogram_, spec);
    case ObserverOptions::Kind::kMinMax:
      break;
  }
  return seen_;
}

ValueRange percentile_range(const ValueHistogram& histogram, double percentile) {
  if (histogram.width() == 0) return {};
  constexpr auto kSide = static_cast<double>(ValueHistogram::kSide);
  const std::vector<uint64_t>& counts = histogram.counts();
  const double cut = (100 - percentile) / 200 * static_cast<double>(histogram.total());
  double below = 0, above = 0;
  size_t first = 0, last = counts.size();
  while (first < last && below + static_cast<double>(counts[first]) <= cut)
    below += static_cast<double>(counts[first++]);
  while (last > first && above + static_cast<double>(counts[last - 1]) <= cut)
    above += static_cast<double>(counts[--last]);
  const double low = (static_cast<double>(first) - kSide) * histogram.width();
  const double high = (static_cast<double>(last) - kSide) * histogram.width();
  return {std::max(histogram.low(), static_cast<float>(low)), std::min(histogram.high(), static_cast<float>(high))};
}

namespace {

// The divergence of what `spec` makes of the values in bins [first, last) from all values, those beyond moved to the
// ends; bins of one level share its count.
double divergence(const ValueHistogram& histogram, const ActivationSpec& quantizer, size_t first, size_t last) {
  const std::vector<uint64_t>& counts = histogram.counts();
  double within = 0, below = 0, above = 0;
  for (size_t i = 0; i < counts.size(); ++i)
    (i < first ? below : i < last ? within : above) += static_cast<double>(counts[i]);
  if (within == 0) return std::numeric_limits<double>::infinity();
  const double zero = quantizer.symmetric ? 1 << (quantizer.bits - 1) : quantizer.zero;
  const auto level = [&](size_t i) {
    const double middle =
        (static_cast<double>(i) - static_cast<double>(ValueHistogram::kSide) + 0.5) * histogram.width();
    return std::clamp(std::nearbyint(middle / double{quantizer.scale}) + zero, 0.0, std::exp2(quantizer.bits) - 1);
  };
  const double total = static_cast<double>(histogram.total());
  double sum = 0;
  for (size_t begin = first; begin < last;) {
    size_t end = begin, used = 0;
    double count = 0;
    const double here = level(begin);
    for (; end < last && level(end) == here; ++end) {
      count += static_cast<double>(counts[end]);
      used += counts[end] > 0 ? 1 : 0;
    }
    for (size_t i = begin; i < end; ++i) {
      const double p =
          (static_cast<double>(counts[i]) + (i == first ? below : 0) + (i + 1 == last ? above : 0)) / total;
      if (p == 0) continue;
      constexpr double kAlmostNothing = 1e-9;
      const double q = counts[i] > 0 ? count / static_cast<double>(used) / within : kAlmostNothing;
      sum += p * std::log(p / q);
    }
    begin = end;
  }
  return sum;
}

}  // namespace

ValueRange entropy_range(const ValueHistogram& histogram, const ActivationSpec& spec) {
  const ValueRange all = with_zero({histogram.low(), histogram.high()});
  if (histogram.width() == 0 || spec.grid != Grid::kInt) return histogram.width() == 0 ? ValueRange{} : all;
  const double largest = std::max(-double{all.low}, double{all.high}),
               smallest = std::exp2(spec.bits) * histogram.width();
  ValueRange best = all;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0;; ++i) {
    const double t = largest * std::exp2(-i / 8.0);
    if (i > 0 && t < smallest) return best;
    const ValueRange range{static_cast<float>(std::max(double{all.low}, -t)),
                           static_cast<float>(std::min(double{all.high}, t))};
    const auto bin = [&](float value) {
      return static_cast<size_t>(std::floor(double{value} / histogram.width()) +
                                 static_cast<double>(ValueHistogram::kSide));
    };
    const double own = divergence(histogram, spanning(spec, range, DType::kF32), bin(range.low), bin(range.high) + 1);
    if (own < least) least = own, best = range;
  }
}

}  // namespace nibble
