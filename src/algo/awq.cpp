#include <algorithm>
#include <cmath>
#include <vector>

#include "algo/algorithm.h"
#include "algo/each_group.h"
#include "algo/equalize.h"
#include "algo/scale_candidates.h"
#include "core/threads.h"

namespace nibble {
namespace {

constexpr AlgorithmOption kOptions[] = {
    {"alpha", -1, -1, 1, "share r of the input in s = mean|x|^r / mean|w|^(1-r); -1: the one of least output error"},
    {"n_grid", 20, 1, 1000, "with alpha -1: how many r = 0, 1/n, ..., (n-1)/n are tried, beside no scaling at all"},
    {"rows", 256, 1, 1e9, "with alpha -1: on how many rows of each linear they are tried"},
    {"clip_low", 0.5, 0.1, 1, "smallest multiple of each group's range that is tried; 1: only the range itself"},
    {"clip_step", 0.02, 0.001, 0.5, "distance of the multiples tried where awq also rounds"},
};

// Mean over the rows of all linears of |w| relative to its group's largest, [cols].
std::vector<double> mean_weights(const EqualizerInput& input) {
  std::vector<double> sums(input.stats.cols);
  size_t rows = 0;
  for (size_t i = 0; i < input.weights.size(); ++i) {
    const MatrixView<const float> w = input.weights[i];
    const size_t size = input.specs[i].group_size(w.cols);
    rows += w.rows;
    for (size_t r = 0; r < w.rows; ++r)
      for (size_t begin = 0; begin < w.cols; begin += size) {
        const size_t end = std::min(w.cols, begin + size);
        float largest = 1e-30f;
        for (size_t c = begin; c < end; ++c) largest = std::max(largest, std::abs(w.row(r)[c]));
        for (size_t c = begin; c < end; ++c) sums[c] += double{std::abs(w.row(r)[c]) / largest};
      }
  }
  for (double& sum : sums) sum /= static_cast<double>(std::max<size_t>(rows, 1));
  return sums;
}

// Round to nearest with each group's range multiplied by the factor of the least squared error, weighted by the mean
// square of the inputs. Other tools try 1 to .91 by steps of .01 (clip_low=.91): on a model of 135M parameters going on
// to .5 takes another 10 to 40 % off the error of the outputs.
class AwqRounding final : public Algorithm {
 public:
  AwqRounding(double low, double step) : low_(low), step_(step) {}

  InputUse input_use() const override { return InputUse::kImportance; }

  QuantizedMatrix quantize(const Rounding& rounding) const override {
    const QuantSpec& spec = rounding.spec;
    if (spec.per_tensor)  // no single slice of rows could choose for all
      return quantize_tensor(rounding.weight, spec,
                             fit_range(spec, rounding.tensor_range.first, rounding.tensor_range.second, 1.0f));
    const std::vector<float> importance =
        rounding.inputs != nullptr ? rounding.inputs->importance : std::vector<float>(rounding.weight.cols, 1.0f);
    std::vector<uint8_t> trial;
    return quantize_groups(rounding.weight, spec, [&](std::span<const float> w, size_t begin, uint8_t* codes) {
      return clip_group(spec, w, std::span(importance).subspan(begin, w.size()), trial, codes);
    });
  }

 private:
  GroupScale clip_group(const QuantSpec& spec, std::span<const float> w, std::span<const float> h,
                        std::vector<uint8_t>& trial, uint8_t* codes) const {
    GroupScale best = fit_group(spec, w, 1.0f);
    encode_group(spec, best, w, codes);
    double least = weighted_error(spec, best, w, h, codes);
    trial.resize(w.size());
    for (int i = 1; 1.0 - i * step_ >= low_ - 1e-9 && least > 0; ++i) {
      const GroupScale map = fit_group(spec, w, static_cast<float>(1.0 - i * step_));
      encode_group(spec, map, w, trial.data());
      const double error = weighted_error(spec, map, w, h, trial.data());
      if (!(error < least)) continue;
      least = error;
      best = map;
      std::copy(trial.begin(), trial.end(), codes);
    }
    return best;
  }

  double low_, step_;
};

// Activation-aware scales (Lin et al. 2024): columns that large inputs meet are scaled up before they are rounded,
//   s_j = mean|x_j|^r / (mean_i |w_ij| / groupmax)^(1-r),   over sqrt(max s * min s).
// The paper measures the output of the whole module for each r, with weights rounded to nearest; here it is the sum of
// the linears' tr(D H D^T), D = Q(W s) / s - W, which needs no second look at the inputs, and Q clips as the rounding
// that follows will: scales chosen for plain round to nearest often make searched grids worse.
class AwqScales final : public Equalizer {
 public:
  explicit AwqScales(const AlgorithmSettings& settings)
      : alpha_(settings.find("alpha")->second),
        n_grid_(static_cast<size_t>(settings.find("n_grid")->second)),
        rows_(static_cast<size_t>(settings.find("rows")->second)),
        rounding_(settings.find("clip_low")->second, 0.05) {}

  bool needs_factor() const override { return alpha_ < 0; }

  std::vector<float> scales(const EqualizerInput& input) const override {
    const std::vector<double> weights = mean_weights(input);
    if (alpha_ >= 0) return scales_of(input, weights, alpha_);
    std::vector<std::vector<float>> candidates = {std::vector<float>(input.stats.cols, 1.0f)};
    for (size_t i = 0; i < n_grid_; ++i)
      candidates.push_back(scales_of(input, weights, static_cast<double>(i) / static_cast<double>(n_grid_)));
    std::vector<double> errors(candidates.size());
    parallel_for(candidates.size(), 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) errors[i] = weight_error(input, rounding_, rows_, candidates[i]);
    });
    return candidates[static_cast<size_t>(std::min_element(errors.begin(), errors.end()) - errors.begin())];
  }

 private:
  static std::vector<float> scales_of(const EqualizerInput& input, const std::vector<double>& weights, double r) {
    const size_t cols = input.stats.cols;
    double mean = 0;
    for (float x : input.stats.mean_abs) mean += double{x} / static_cast<double>(cols);
    if (mean == 0) return std::vector<float>(cols, 1.0f);
    std::vector<double> s(cols);
    // Inputs that calibration hardly saw are not divided by next to nothing.
    for (size_t c = 0; c < cols; ++c)
      s[c] = std::pow(std::max(double{input.stats.mean_abs[c]}, 1e-3 * mean), r) / (std::pow(weights[c], 1 - r) + 1e-4);
    const auto [lo, hi] = std::minmax_element(s.begin(), s.end());
    const double middle = std::sqrt(*lo * *hi);
    std::vector<float> scales(cols);
    for (size_t c = 0; c < cols; ++c) scales[c] = static_cast<float>(s[c] / middle);
    return scales;
  }

  double alpha_;
  size_t n_grid_, rows_;
  AwqRounding rounding_;
};

}  // namespace

extern const AlgorithmEntry awq_algorithm;
const AlgorithmEntry awq_algorithm = {
    .name = "awq",
    .summary = "activation-aware scaling of input columns before rounding; last in a chain: round to nearest, clipped",
    .options = kOptions,
    .make = [](const AlgorithmSettings& settings) -> std::unique_ptr<Algorithm> {
      return std::make_unique<AwqRounding>(settings.find("clip_low")->second, settings.find("clip_step")->second);
    },
    .make_equalizer = [](const AlgorithmSettings& settings) -> std::unique_ptr<Equalizer> {
      return std::make_unique<AwqScales>(settings);
    },
};

}  // namespace nibble
