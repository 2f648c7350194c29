#include <algorithm>
#include <cmath>
#include <vector>

#include "algo/algorithm.h"
#include "algo/equalize.h"
#include "core/threads.h"

namespace nibble {
namespace {

constexpr AlgorithmOption kOptions[] = {
    {"alpha", 0.5, -1, 1,
     "share of the difficulty that moves from inputs to weights, .8 for many Llamas; -1: 0, .1, ... 1, by least error"},
    {"act_bits", 8, 2, 8, "with alpha -1: bits of the inputs"},
    {"act_static", 0, 0, 1, "with alpha -1: 1 when all tokens share one range (set by --act static)"},
    {"rows", 256, 1, 1e9, "with alpha -1: on how many rows of each linear alphas are tried"},
};

// SmoothQuant (Xiao et al. 2023): s_j = max|x_j|^alpha / max|w_j|^(1-alpha), so that columns of large inputs, which
// spoil the range of quantized inputs, hand part of their size to the weights.
//
// For alpha = -1 the error of the outputs is estimated from statistics, as the sum of
//   weights  tr(D H D^T), D = Q(W s) / s - W with Q round to nearest;
//   inputs   sum_j sum_i (w_ij s_j)^2 min(step^2 / 12, mean x_j^2 / s_j^2): rounding errors are independent and evenly
//            spread over a step, and no larger than the input itself; step = range / (2^(bits-1) - 1).
// The range of a token's inputs is taken for the median of max_j |x_j / s_j| if inputs were normal and independent, but
// none beyond its own largest: single tokens with huge inputs, such as the first of a text, have a range of their own.
// Where all tokens share one range it is the largest |x_j / s_j| of all.
class SmoothQuant final : public Equalizer {
 public:
  explicit SmoothQuant(const AlgorithmSettings& settings)
      : alpha_(settings.find("alpha")->second),
        levels_(std::exp2(settings.find("act_bits")->second - 1) - 1),
        static_(settings.find("act_static")->second != 0),
        rows_(static_cast<size_t>(settings.find("rows")->second)) {}

  bool needs_factor() const override { return alpha_ < 0; }

  std::vector<float> scales(const EqualizerInput& input) const override {
    const std::vector<double> weights = largest_weights(input);
    if (alpha_ >= 0) return scales_of(input, weights, alpha_);
    std::vector<std::vector<float>> candidates = {std::vector<float>(input.stats.cols, 1.0f)};
    for (int i = 0; i <= 10; ++i) candidates.push_back(scales_of(input, weights, 0.1 * i));
    std::vector<double> errors(candidates.size());
    const auto rounding = make_algorithm("rtn", {});
    parallel_for(candidates.size(), 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i)
        errors[i] = weight_error(input, *rounding, rows_, candidates[i]) + activation_error(input, candidates[i]);
    });
    return candidates[static_cast<size_t>(std::min_element(errors.begin(), errors.end()) - errors.begin())];
  }

 private:
  static std::vector<double> largest_weights(const EqualizerInput& input) {
    std::vector<double> largest(input.stats.cols);
    for (const MatrixView<const float> w : input.weights)
      for (size_t r = 0; r < w.rows; ++r)
        for (size_t c = 0; c < w.cols; ++c) largest[c] = std::max(largest[c], double{std::abs(w.row(r)[c])});
    return largest;
  }

  static std::vector<float> scales_of(const EqualizerInput& input, const std::vector<double>& weights, double alpha) {
    const std::vector<float>& inputs = input.stats.max_abs;
    const double largest_input = inputs.empty() ? 0 : double{*std::max_element(inputs.begin(), inputs.end())};
    const double largest_weight = weights.empty() ? 0 : *std::max_element(weights.begin(), weights.end());
    std::vector<float> scales(inputs.size(), 1.0f);
    if (largest_input == 0 || largest_weight == 0) return scales;
    // Columns that calibration hardly saw, or that have hardly any weight, are not scaled beyond all bounds.
    for (size_t c = 0; c < scales.size(); ++c)
      scales[c] = static_cast<float>(std::pow(std::max(double{inputs[c]}, 1e-5 * largest_input), alpha) /
                                     std::pow(std::max(weights[c], 1e-5 * largest_weight), 1 - alpha));
    return scales;
  }

  static double largest_range(const InputStats& stats, std::span<const float> scales) {
    double range = 0;
    for (size_t c = 0; c < stats.cols; ++c) range = std::max(range, double{stats.max_abs[c]} / double{scales[c]});
    return range;
  }

  // The range R that every second token's inputs stay within: the product of P(|x_j / s_j| <= R) is 1/2.
  static double usual_range(const InputStats& stats, std::span<const float> scales) {
    double low = 0, high = largest_range(stats, scales);
    for (int i = 0; i < 30; ++i) {
      const double range = 0.5 * (low + high);
      double log_within = 0;
      for (size_t c = 0; c < stats.cols; ++c) {
        const double bound = range * double{scales[c]};
        if (bound < double{stats.max_abs[c]} && stats.mean_square[c] > 0)
          log_within += std::log(std::erf(bound / std::sqrt(2 * double{stats.mean_square[c]})));
      }
      (log_within < -0.6931 ? low : high) = range;
    }
    return high;
  }

  double activation_error(const EqualizerInput& input, std::span<const float> scales) const {
    const InputStats& stats = input.stats;
    const double step = (static_ ? largest_range(stats, scales) : usual_range(stats, scales)) / levels_;
    double error = 0;
    for (const MatrixView<const float> w : input.weights)
      for (size_t c = 0; c < w.cols; ++c) {
        const double scale = double{scales[c]};
        double squares = 0;
        for (size_t r = 0; r < w.rows; ++r) squares += double{w.row(r)[c]} * double{w.row(r)[c]};
        error += squares * scale * scale * std::min(step * step / 12, double{stats.mean_square[c]} / (scale * scale));
      }
    return error;
  }

  double alpha_, levels_;
  bool static_;
  size_t rows_;
};

}  // namespace

extern const AlgorithmEntry smoothquant_algorithm;
const AlgorithmEntry smoothquant_algorithm = {
    .name = "smoothquant",
    .summary = "scaling of input columns so that quantized inputs lose less; a rounding follows, else rtn",
    .options = kOptions,
    .make_equalizer = [](const AlgorithmSettings& settings) -> std::unique_ptr<Equalizer> {
      return std::make_unique<SmoothQuant>(settings);
    },
};

}  // namespace nibble
