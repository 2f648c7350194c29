#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "algo/algorithm.h"
#include "algo/group_scale.h"
#include "core/error.h"
#include "kernels/half_quadratic.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

constexpr AlgorithmOption kOptions[] = {
    {"p", 0.7, 0.1, 1.0, "the norm sum |error|^p that is minimised; below 1, outliers may keep large errors"},
    {"beta", 10, 1e-3, 1e6, "how closely the error is followed at first; the larger, the less of it counts as outlier"},
    {"kappa", 1.01, 1, 10, "multiplies beta after each iteration"},
    {"iters", 20, 1, 1000, "iterations; each group keeps the zero point with the least mean |error|"},
    {"relative", 0, 0, 1,
     "1: beta counts errors in steps of the group's scale; 0: in units of the weights, as in the paper; or between"},
    {"refit", 4, 0, 100,
     "least-squares fits of scale and min to the codes that come after, each but the last rounded again"},
    {"round_zero", 2, 0, 2, "the first zero point is 0: real; 1: an integer; 2: an integer with 4 bits"},
    {"integer_zero", 0, 0, 1, "1: round zero points to integers, for formats without stored mins"},
};

// Half-quadratic quantization (Badri & Shaji 2023): each group's scale s stays that of its range, its zero point z, a
// real number, minimises sum |w - s (q - z)|^p by alternating
//   q = clamp(rint(w / s + z)),   v = shrink(w - s (q - z), beta),   z = mean(q - (w - v) / s),   beta *= kappa
// with shrink(e, beta) = sign(e) max(0, |e| - |e|^(p-1) / beta).
//
// Everything is computed in steps of s: with e = s u, shrink(e, beta) / s = sign(u) max(0, |u| - s^(p-2) / beta
// |u|^(p-1)), and z grows by mean(shrink(u) - u). Weights of usual size have such small errors that the paper's beta of
// 10 leaves nothing of any of them, and z becomes the mean. Counting errors in steps (`relative` 1: the factor is 1 /
// beta) gives beta the same meaning in every group; between, errors count in units of s^relative.
//
// The paper's implementation stops when the mean error of a whole matrix no longer falls, and keeps what the last
// iteration made. Here every group gets all iterations and keeps its best zero, so that rows do not depend on each
// other.
//
// What the paper's method leaves out is the scale, and a group whose zero has the least sum |error|^p has errors that
// do not cancel: inputs are not centred, so a mean error is a large part of the output's. `refit` ends with a few
// rounds of least squares, which mend both; more of them forget the outliers that the norm was chosen for. There a
// column counts by its input's mean square, or what the gains of a norm say of it.
class Hqq final : public Algorithm {
 public:
  explicit Hqq(const AlgorithmSettings& settings)
      : p_(static_cast<float>(settings.find("p")->second)),
        beta_(settings.find("beta")->second),
        kappa_(static_cast<float>(settings.find("kappa")->second)),
        relative_(settings.find("relative")->second),
        refits_(static_cast<int>(settings.find("refit")->second)),
        iters_(static_cast<int>(settings.find("iters")->second)),
        round_zero_(static_cast<int>(settings.find("round_zero")->second)),
        integer_zero_(settings.find("integer_zero")->second != 0) {}

  InputUse input_use() const override { return InputUse::kImportance; }
  bool wants_gains() const override { return true; }

  QuantSpec spec_for(const QuantSpec& spec) const override {
    if (spec.grid != Grid::kInt || spec.symmetric)
      throw Error(ErrorKind::kUsage, cat(describe(spec), ": hqq moves the zero points of integer grids; try --asym"));
    if (spec.per_tensor)
      throw Error(ErrorKind::kUsage,
                  cat(describe(spec), ": hqq fits a zero point to each group; try --granularity channel or group"));
    QuantSpec result = spec;
    result.mins = spec.mins || !integer_zero_;
    return result;
  }

  QuantizedMatrix quantize(const Rounding& rounding) const override {
    const QuantSpec& spec = rounding.spec;
    spec_for(spec);  // refuses
    const MatrixView<const float> weight = rounding.weight;
    const size_t groups = spec.groups(weight.cols), size = spec.group_size(weight.cols);
    QuantizedMatrix q;
    q.spec = spec;
    q.rows = weight.rows;
    q.cols = weight.cols;
    q.codes.resize(q.rows * q.cols);
    q.scales.resize(q.rows * groups);
    if (spec.mins) {
      q.mins.resize(q.scales.size());
    } else {
      q.zeros.resize(q.scales.size());
    }
    Batch batch;
    for (size_t g = 0; g < groups; ++g)
      for (size_t row = 0; row < q.rows; row += kLanes)
        quantize_batch(weight, rounding.inputs, g * size, std::min(size, q.cols - g * size), row, g, batch, q);
    return q;
  }

 private:
  static constexpr size_t kLanes = kernels::kHalfQuadraticGroups;

  // The same group of as many rows as the kernel takes.
  struct Batch {
    std::vector<float> steps;  // [columns, lanes]
    float origins[kLanes];     // what code 0 stands for at first
    float scales[kLanes];
    float factors[kLanes];
    float shifts[kLanes], errors[kLanes];
  };

  void quantize_batch(MatrixView<const float> weight, const InputFactor* inputs, size_t begin, size_t count, size_t row,
                      size_t group, Batch& batch, QuantizedMatrix& q) const {
    const QuantSpec& spec = q.spec;
    const size_t rows = std::min(kLanes, q.rows - row), groups = q.groups();
    const auto top = static_cast<float>((1 << spec.bits) - 1);
    batch.steps.assign(count * kLanes, 0.0f);
    std::fill_n(batch.factors, kLanes, 0.0f);
    for (size_t lane = 0; lane < rows; ++lane) {
      const float* const w = weight.row(row + lane) + begin;
      start(spec, {w, count}, batch.origins[lane], batch.scales[lane]);
      const double unit = std::pow(double{batch.scales[lane]}, (double{p_} - 2.0) * (1.0 - relative_));
      batch.factors[lane] = static_cast<float>(std::min(unit / beta_, 1e30));
      // Halved, so that no finite range overflows.
      const float half_origin = 0.5f * batch.origins[lane], inverse = 2.0f / batch.scales[lane];
      for (size_t i = 0; i < count; ++i) batch.steps[i * kLanes + lane] = (0.5f * w[i] - half_origin) * inverse;
    }
    kernels::half_quadratic({batch.steps.data(), count, batch.factors, top, p_ - 1.0f, kappa_, iters_}, batch.shifts,
                            batch.errors);
    for (size_t lane = 0; lane < rows; ++lane) {
      const std::span<const float> w(weight.row(row + lane) + begin, count);
      uint8_t* const codes = q.codes.data() + (row + lane) * q.cols + begin;
      const size_t at = (row + lane) * groups + group;
      q.scales[at] = batch.scales[lane];
      if (spec.mins) {
        q.mins[at] = storable_min(batch.origins[lane] - q.scales[at] * batch.shifts[lane], spec.scale_dtype);
        const std::span<const float> importance =
            inputs == nullptr ? std::span<const float>() : std::span(inputs->importance).subspan(begin, count);
        round_and_refit(spec, w, importance, q.scales[at], q.mins[at], codes, batch.steps.data());
      } else {
        q.zeros[at] = integer_zero(spec, w, batch.shifts[lane], codes);
      }
    }
  }

  // The map of round to nearest. A stored min need not make 0 a code.
  void start(const QuantSpec& spec, std::span<const float> w, float& origin, float& scale) const {
    const GroupScale nearest = fit_group(spec, w, 1.0f);  // refuses what is not finite
    if (spec.mins) {
      const auto [lo, hi] = std::minmax_element(w.begin(), w.end());
      const auto top = static_cast<float>((1 << spec.bits) - 1);
      scale = *lo == *hi ? 1.0f : storable_scale((0.5f * *hi - 0.5f * *lo) / (0.5f * top), spec.scale_dtype);
      origin = *lo;
      if (round_zero_ == 1 || (round_zero_ == 2 && spec.bits == 4)) origin = scale * std::nearbyint(*lo / scale);
    } else {
      scale = nearest.scale;
      origin = -scale * static_cast<float>(nearest.zero);
    }
  }

  // above: space for as many floats as w has.
  void round_and_refit(const QuantSpec& spec, std::span<const float> w, std::span<const float> importance, float& scale,
                       float& min, uint8_t* codes, float* above) const {
    const auto top = static_cast<float>((1 << spec.bits) - 1);
    const auto round = [&] {
      for (size_t i = 0; i < w.size(); ++i) above[i] = w[i] - min;
      kernels::active().encode(above, w.size(), scale, 0.0f, 0.0f, top, codes);
    };
    round();
    for (int i = 0; i < refits_; ++i) {
      if (i > 0) round();
      fit_line(spec, w, importance, codes, scale, min);
    }
  }

  // scale and min of the least sum of importance (w - scale code - min)^2. The scale stays where it would not be
  // positive or where nearly all importance is that of one code, which leaves rounding noise to fit; both stay where
  // nothing, or something infinite, counts.
  static void fit_line(const QuantSpec& spec, std::span<const float> w, std::span<const float> importance,
                       const uint8_t* codes, float& scale, float& min) {
    double n = 0, sum_w = 0, sum_c = 0, sum_cc = 0, sum_cw = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      const double h = importance.empty() ? 1.0 : double{importance[i]}, code = codes[i];
      n += h;
      sum_w += h * double{w[i]};
      sum_c += h * code;
      sum_cc += h * code * code;
      sum_cw += h * code * double{w[i]};
    }
    if (!(n > 0) || !std::isfinite(n)) return;
    constexpr double kLeastSpread = 1e-12;  // of n sum_cc, whose rounding errors are about 1e-14 of it
    const double spread = n * sum_cc - sum_c * sum_c, covariance = n * sum_cw - sum_c * sum_w;
    if (spread > kLeastSpread * n * sum_cc && covariance > 0)
      scale = storable_scale(static_cast<float>(covariance / spread), spec.scale_dtype);
    min = storable_min(static_cast<float>((sum_w - double{scale} * sum_c) / n), spec.scale_dtype);
  }

  // Returns the zero point: the best real one rounded, or that of round to nearest where it is better.
  static uint8_t integer_zero(const QuantSpec& spec, std::span<const float> w, float shift, uint8_t* codes) {
    const auto error_of = [&](const GroupScale& map) {
      encode_group(spec, map, w, codes);
      double error = 0;
      for (size_t i = 0; i < w.size(); ++i)
        error += std::abs(double{map.scale * code_value(spec, map, codes[i])} - double{w[i]});
      return error;
    };
    const GroupScale nearest = fit_group(spec, w, 1.0f);
    GroupScale map = nearest;
    const auto top = static_cast<float>((1 << spec.bits) - 1);
    map.zero = static_cast<uint8_t>(std::clamp(std::nearbyint(static_cast<float>(nearest.zero) + shift), 0.0f, top));
    if (map.zero != nearest.zero && error_of(map) < error_of(nearest)) {
      encode_group(spec, map, w, codes);
      return map.zero;
    }
    encode_group(spec, nearest, w, codes);
    return nearest.zero;
  }

  float p_;
  double beta_;
  float kappa_;
  double relative_;
  int refits_;
  int iters_, round_zero_;
  bool integer_zero_;
};

}  // namespace

extern const AlgorithmEntry hqq_algorithm;
const AlgorithmEntry hqq_algorithm = {
    .name = "hqq",
    .summary = "half-quadratic: the zero point of least |error|^p, a real number; asymmetric grids, no data needed",
    .options = kOptions,
    .make = [](const AlgorithmSettings& settings) -> std::unique_ptr<Algorithm> {
      return std::make_unique<Hqq>(settings);
    },
};

}  // namespace nibble
