#include "algo/fit_grids.h"

#include <algorithm>
#include <cmath>

namespace nibble {
namespace {

constexpr int kMinRounds = 4;  // of refining a scale and min together

// value = scale * code + min.
struct Line {
  float scale = 1, min = 0;
};

QuantSpec without_mins(QuantSpec spec) {
  spec.mins = false;
  return spec;
}

// The line through the codes of a grid with a zero point.
Line line_of(const QuantSpec& spec, const GroupScale& map) {
  return {map.scale, storable_min(-map.scale * static_cast<float>(map.zero), spec.scale_dtype)};
}

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
  const QuantSpec points = without_mins(spec);
  GroupGrid grid;
  if (fit != nullptr) {
    grid.map = fit->fit(points, w, h, codes);
  } else {
    grid.map = fit_group(points, w, 1.0f);
    encode_group(points, grid.map, w, codes);
  }
  if (!spec.mins) return grid;

  Line line = line_of(spec, grid.map);
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
  return {.map = {line.scale, 0}, .min = line.min};
}

QuantizedMatrix fit_grids(const Rounding& rounding, GridWeights weights, const GridFitOptions& options) {
  const QuantSpec& spec = rounding.spec;
  const size_t cols = rounding.weight.cols, groups = spec.groups(cols), size = spec.group_size(cols);
  std::vector<float> row(cols), h(cols, 1.0f);
  if (weights == GridWeights::kImportance && rounding.inputs != nullptr) h = rounding.inputs->importance;
  GridFit fit(options);
  QuantizedMatrix q;
  q.spec = spec;
  q.rows = rounding.weight.rows;
  q.cols = cols;
  q.codes.resize(q.rows * cols);
  const auto keep = [&](const GroupGrid& grid) {
    q.scales.push_back(grid.map.scale);
    if (spec.mins)
      q.mins.push_back(grid.min);
    else if (!spec.symmetric)
      q.zeros.push_back(grid.map.zero);
  };
  GroupScale whole;  // with spec.per_tensor
  if (spec.per_tensor) {
    whole = fit_range(without_mins(spec), rounding.tensor_range.first, rounding.tensor_range.second, 1.0f);
    keep({.map = whole, .min = spec.mins ? line_of(spec, whole).min : 0.0f});
  }
  for (size_t r = 0; r < q.rows; ++r) {
    std::copy_n(rounding.weight.row(r), cols, row.begin());
    if (rounding.inputs != nullptr)
      for (size_t c = 0; c < cols; ++c)
        if (rounding.inputs->importance[c] == 0) row[c] = 0;
    uint8_t* const codes = q.codes.data() + r * cols;
    if (spec.per_tensor && spec.mins) {
      encode_line(spec, line_of(spec, whole), row, codes);
    } else if (spec.per_tensor) {
      encode_group(spec, whole, row, codes);
    } else {
      for (size_t g = 0; g < groups; ++g) {
        const size_t begin = g * size, count = std::min(size, cols - begin);
        keep(fit_group_grid(spec, std::span<const float>(row).subspan(begin, count),
                            std::span<const float>(h).subspan(begin, count),
                            weights == GridWeights::kRange ? nullptr : &fit, codes + begin));
      }
    }
  }
  return q;
}

}  // namespace nibble
