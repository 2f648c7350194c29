#include "algo/fit_grids.h"

#include <algorithm>
#include <cmath>

#include "algo/each_group.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

constexpr int kMinRounds = 4;  // of refining a scale and min together

// value = scale * code + min.
struct Line {
  float scale = 1, min = 0;
};

void encode_line(const QuantSpec& spec, const Line& line, std::span<const float> w, uint8_t* codes) {
  const auto top = static_cast<float>((1 << spec.bits) - 1);
  for (size_t i = 0; i < w.size(); ++i)
    codes[i] = static_cast<uint8_t>(std::clamp(std::nearbyint((w[i] - line.min) / line.scale), 0.0f, top));
}

double line_error(const Line& line, std::span<const float> w, std::span<const float> h, const uint8_t* codes) {
  double error = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double difference = double{line.scale * static_cast<float>(codes[i]) + line.min} - double{w[i]};
    error += double{h[i]} * difference * difference;
  }
  return error;
}

// The line of least weighted error for these codes. False where they do not determine one.
bool least_squares_line(const QuantSpec& spec, std::span<const float> w, std::span<const float> h, const uint8_t* codes,
                        Line& line) {
  double weight = 0, code = 0, square = 0, value = 0, product = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double c = codes[i], x = double{w[i]}, k = double{h[i]};
    weight += k, code += k * c, square += k * c * c, value += k * x, product += k * c * x;
  }
  const double determinant = weight * square - code * code;
  if (!(determinant > 1e-12 * weight * square)) return false;
  const double scale = (weight * product - code * value) / determinant;
  if (!(scale > 0)) return false;
  line.scale = storable_scale(static_cast<float>(scale), spec.scale_dtype);
  line.min = storable_min(static_cast<float>((value - double{line.scale} * code) / weight), spec.scale_dtype);
  return true;
}

}  // namespace

GroupGrid fit_group_grid(const QuantSpec& spec, std::span<const float> w, std::span<const float> h, GridFit* fit,
                         uint8_t* codes) {
  QuantSpec points = spec;
  points.mins = false;
  GroupGrid grid;
  if (fit != nullptr) {
    grid.map = fit->fit(points, w, h, codes);
  } else {
    grid.map = fit_group(points, w, 1.0f);
    encode_group(points, grid.map, w, codes);
  }
  if (!spec.mins) return grid;

  Line line = {grid.map.scale, storable_min(-grid.map.scale * static_cast<float>(grid.map.zero), spec.scale_dtype)};
  encode_line(spec, line, w, codes);
  double error = fit != nullptr ? line_error(line, w, h, codes) : 0;
  std::vector<uint8_t> trial(codes, codes + w.size());
  for (int i = 0; i < kMinRounds && error > 0; ++i) {
    Line next = line;
    if (!least_squares_line(spec, w, h, trial.data(), next)) break;
    encode_line(spec, next, w, trial.data());
    const double found = line_error(next, w, h, trial.data());
    if (!(found < error)) break;
    line = next;
    error = found;
    std::copy(trial.begin(), trial.end(), codes);
  }
  grid.map = {line.scale, 0};
  grid.min = line.min;
  return grid;
}

QuantizedMatrix fit_grids(const Rounding& rounding, GridWeights weights, const GridFitOptions& options) {
  const QuantSpec& spec = rounding.spec;
  const MatrixView<const float> weight = rounding.weight;
  if (spec.per_tensor && !spec.mins)
    return quantize_tensor(weight, spec,
                           fit_range(spec, rounding.tensor_range.first, rounding.tensor_range.second, 1.0f));
  QuantizedMatrix q;
  q.spec = spec;
  q.rows = weight.rows;
  q.cols = weight.cols;
  const size_t groups = spec.groups(q.cols), size = spec.group_size(q.cols);
  q.codes.resize(q.rows * q.cols);
  q.scales.resize(spec.per_tensor ? 1 : q.rows * groups);
  if (spec.mins)
    q.mins.resize(q.scales.size());
  else if (!spec.symmetric)
    q.zeros.resize(q.scales.size());
  if (spec.per_tensor) {
    QuantSpec points = spec;
    points.mins = false;
    const GroupScale map = fit_range(points, rounding.tensor_range.first, rounding.tensor_range.second, 1.0f);
    q.scales[0] = map.scale;
    q.mins[0] = storable_min(-map.scale * static_cast<float>(map.zero), spec.scale_dtype);
    for (size_t r = 0; r < q.rows; ++r)
      encode_line(spec, {q.scales[0], q.mins[0]}, std::span(weight.row(r), q.cols), q.codes.data() + r * q.cols);
    return q;
  }
  std::vector<float> h(q.cols, 1.0f);
  if (weights == GridWeights::kImportance && rounding.inputs != nullptr) h = rounding.inputs->importance;
  GridFit fit(options);
  for (size_t r = 0; r < q.rows; ++r)
    for (size_t g = 0; g < groups; ++g) {
      const size_t begin = g * size, count = std::min(size, q.cols - begin);
      const GroupGrid grid =
          fit_group_grid(spec, std::span(weight.row(r) + begin, count), std::span<const float>(h).subspan(begin, count),
                         weights == GridWeights::kRange ? nullptr : &fit, q.codes.data() + r * q.cols + begin);
      q.scales[r * groups + g] = grid.map.scale;
      if (spec.mins)
        q.mins[r * groups + g] = grid.min;
      else if (!spec.symmetric)
        q.zeros[r * groups + g] = grid.map.zero;
    }
  return q;
}

}  // namespace nibble
