#include "algo/scale_candidates.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "algo/per_table.h"
#include "kernels/grid_errors.h"
#include "kernels/kernels.h"
#include "quant/quantized_matrix.h"

namespace nibble {
namespace {

// A 16-level grid as a staircase: the lowest level, then up by `rise` at each `middle` between two levels.
struct Staircase {
  float first = 0;
  float middle[15], rise[15];
};

Staircase make_staircase(Grid grid) {
  const std::span<const float> levels = grid_levels(grid);
  std::vector<float> sorted(levels.begin(), levels.end());
  std::sort(sorted.begin(), sorted.end());
  Staircase stairs;
  stairs.first = sorted[0];
  for (size_t k = 0; k < 15; ++k) {  // FP4's two zeros make a step of no height
    stairs.middle[k] = 0.5f * (sorted[k] + sorted[k + 1]);
    stairs.rise[k] = sorted[k + 1] - sorted[k];
  }
  return stairs;
}

// The same for a 16-level grid. The rises add up to the level but for the last bits: good enough to choose by.
void add_table_errors(float w, float h, const float* inverse, const float* scale, const Staircase& stairs, float* error,
                      size_t n) {
  const Staircase local = stairs;  // a copy cannot alias `error`, so that the loop vectorises
  for (size_t i = 0; i < n; ++i) {
    const float x = w * inverse[i];
    float value = local.first;
#pragma GCC unroll 15
    for (size_t k = 0; k < 15; ++k) value += x > local.middle[k] ? local.rise[k] : 0.0f;
    const float difference = value * scale[i] - w;
    error[i] += h * difference * difference;
  }
}

// E4M3: three mantissa bits for magnitudes of 2^-6 and more, a spacing of 2^-9 below, at most 448.
void add_fp8_errors(float w, float h, const float* inverse, const float* scale, float* error, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const float magnitude = std::abs(w) * std::abs(inverse[i]);
    const float x = magnitude < 448.0f ? magnitude : 448.0f;
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const float normal = std::bit_cast<float>((bits + 0x7ffffu + ((bits >> 20) & 1u)) & 0xfff00000u);
    const float subnormal = (x + 0x1p14f) - 0x1p14f;
    const float difference = (x < 0x1p-6f ? subnormal : normal) * scale[i] - std::abs(w);
    error[i] += h * difference * difference;
  }
}

}  // namespace

double weighted_error(const QuantSpec& spec, const GroupScale& map, std::span<const float> w, std::span<const float> h,
                      const uint8_t* codes) {
  double error = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double difference = double{map.scale * code_value(spec, map, codes[i])} - double{w[i]};
    error += double{h[i]} * difference * difference;
  }
  return error;
}

bool least_squares_scale(const QuantSpec& spec, std::span<const float> w, std::span<const float> h,
                         const uint8_t* codes, GroupScale& map) {
  double product = 0, square = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double value = code_value(spec, map, codes[i]);
    product += double{h[i]} * double{w[i]} * value;
    square += double{h[i]} * value * value;
  }
  if (!(square > 0) || product == 0) return false;
  map.scale = storable_scale(static_cast<float>(product / square), spec.scale_dtype);
  return true;
}

void ScaleCandidates::fill(const QuantSpec& spec, const ScaleSearch& search, std::span<const float> w) {
  maps_.clear();
  if (spec.grid == Grid::kInt && spec.bits == 1 && spec.symmetric) return;
  const auto steps = [&](double high, double step) { return static_cast<int>((high - search.low) / step + 1e-9); };
  float lo = 0, hi = 0;
  for (float x : w) lo = std::min(lo, x), hi = std::max(hi, x);
  // Beyond these, squares would leave the range of float: such a group is rounded to nearest.
  if (std::max(-lo, hi) < 1e-15f || std::max(-lo, hi) > 1e15f) return;

  if (spec.symmetric) {
    QuantSpec whole = spec;
    whole.full_range = spec.grid == Grid::kInt;
    const float base =
        fit_range({.bits = whole.bits, .full_range = whole.full_range, .grid = whole.grid}, lo, hi, 1.0f).scale;
    const bool signs =
        search.both_signs && (spec.grid == Grid::kInt || spec.grid == Grid::kNF4 || spec.grid == Grid::kIQ4NL);
    for (int i = 0; i <= steps(search.high, search.step); ++i) {
      const auto scale = static_cast<float>((search.low + i * search.step) * double{base});
      if (signs) {
        push({storable_scale(scale, spec.scale_dtype), 0});
        push({storable_scale(-scale, spec.scale_dtype), 0});
      } else {
        push({storable_scale(std::abs(scale), spec.scale_dtype), 0});
      }
    }
  } else {
    const int last = steps(1.0, 2 * search.step);
    for (int a = 0; a <= last; ++a)
      for (int b = 0; b <= last; ++b) {
        const double below = 1.0 - 2 * search.step * a, above = 1.0 - 2 * search.step * b;
        push(fit_range(spec, static_cast<float>(lo * below), static_cast<float>(hi * above), 1.0f));
      }
  }

  const size_t n = maps_.size();
  scale_.resize(n);
  inverse_.resize(n);
  low_.resize(n);
  high_.resize(n);
  const auto top = static_cast<float>((1 << spec.bits) - 1);
  for (size_t i = 0; i < n; ++i) {
    const auto zero = static_cast<float>(spec.symmetric ? spec.symmetric_zero() : maps_[i].zero);
    scale_[i] = maps_[i].scale;
    inverse_[i] = 1.0f / maps_[i].scale;
    low_[i] = -zero;
    high_[i] = top - zero;
  }
}

const GroupScale* ScaleCandidates::best(const QuantSpec& spec, std::span<const float> w, std::span<const float> h) {
  const size_t n = maps_.size();
  if (n == 0) return nullptr;
  error_.assign(n, 0.0f);
  if (spec.grid == Grid::kInt) {
    static const kernels::GridErrorTable& kernel = kernels::grid_error_table(kernels::active());
    kernel.integers(
        {w.data(), h.data(), w.size(), scale_.data(), inverse_.data(), low_.data(), high_.data(), n, error_.data()});
  } else if (spec.grid == Grid::kFP8) {
    for (size_t j = 0; j < w.size(); ++j) add_fp8_errors(w[j], h[j], inverse_.data(), scale_.data(), error_.data(), n);
  } else {
    static const PerTable16<Staircase> all(make_staircase);
    const Staircase& stairs = all[spec.grid];
    for (size_t j = 0; j < w.size(); ++j)
      add_table_errors(w[j], h[j], inverse_.data(), scale_.data(), stairs, error_.data(), n);
  }
  return &maps_[static_cast<size_t>(std::min_element(error_.begin(), error_.end()) - error_.begin())];
}

}  // namespace nibble
