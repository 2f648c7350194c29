#include "algo/soft_rounding.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "algo/group_scale.h"
#include "kernels/kernels.h"
#include "quant/factor_products.h"

namespace nibble {
namespace {

// To the nearest integer, ties to even, for |x| < 2^22; vectorises on every CPU.
inline float round_small(float x) { return (x + 12582912.0f) - 12582912.0f; }

// y of every weight, not yet rounded.
void positions(const float* w, const float* offset, const float* inverse, const float* zero, const float* shift,
               const float* v, float* y, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = (w[i] - offset[i]) * inverse[i] + zero[i] + shift[i] + v[i];
}

// y becomes the level code - zero; codes and differences from the weights follow.
void round_levels(const float* w, const float* offset, const float* scale, const float* zero, const float* live,
                  float top, float* y, uint8_t* codes, float* difference, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    float code = y[i] > 0.0f ? y[i] : 0.0f;
    code = round_small(code < top ? code : top);
    codes[i] = static_cast<uint8_t>(static_cast<int>(code));
    y[i] = code - zero[i];
    difference[i] = live[i] * (scale[i] * y[i] + offset[i] - w[i]);
  }
}

// gradient becomes that by v; term the product with d value / d s.
void by_parameters(const float* w, const float* offset, const float* inverse, const float* scale, const float* zero,
                   const float* y, const uint8_t* codes, float top, float* gradient, float* term, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const float within = y[i] >= -0.5f && y[i] <= top + 0.5f ? 1.0f : 0.0f;
    const float level = static_cast<float>(codes[i]) - zero[i];
    term[i] = gradient[i] * (level - within * ((w[i] - offset[i]) * inverse[i]));
    gradient[i] *= within * scale[i];
  }
}

}  // namespace

SoftRounding::SoftRounding(MatrixView<const float> weight, const QuantizedMatrix& start, size_t first_row, size_t rows,
                           const InputFactor& inputs)
    : inputs_(inputs),
      spec_(start.spec),
      rows_(rows),
      cols_(weight.cols),
      groups_(start.groups()),
      top_(static_cast<float>((1 << start.spec.bits) - 1)),
      group_of_(cols_),
      live_(cols_),
      weight_(rows * cols_),
      shift_(rows * cols_),
      v_(rows * cols_),
      scale_(rows * groups_),
      zero_(rows * groups_),
      offset_(rows * groups_),
      stretch_(rows * groups_, 1.0f),
      codes_(rows * cols_),
      difference_(rows * cols_),
      outputs_(rows * cols_),
      errors_(rows),
      row_scale_(cols_),
      row_inverse_(cols_),
      row_zero_(cols_),
      row_offset_(cols_),
      row_term_(cols_) {
  assert(spec_.grid == Grid::kInt && !inputs.factor.empty());
  const size_t size = spec_.group_size(cols_);
  for (size_t i = 0; i < cols_; ++i) {
    const uint32_t column = inputs.order[i];
    group_of_[i] = start.group_of.empty() ? static_cast<uint32_t>(column / size) : start.group_of[column];
    live_[i] = inputs.importance[column] > 0 ? 1.0f : 0.0f;
  }
  for (size_t r = 0; r < rows; ++r) {
    for (size_t g = 0; g < groups_; ++g) {
      const size_t at = spec_.per_tensor ? 0 : (first_row + r) * groups_ + g;
      const int zero = spec_.symmetric ? spec_.symmetric_zero() : spec_.mins ? 0 : start.zeros[at];
      scale_[r * groups_ + g] = start.scales[at];
      zero_[r * groups_ + g] = value_map(spec_, 1.0f, zero).zero;
      offset_[r * groups_ + g] = spec_.mins ? start.mins[at] : 0.0f;
    }
    for (size_t i = 0; i < cols_; ++i) weight_[r * cols_ + i] = weight.row(first_row + r)[inputs.order[i]];
    expand(r);
    float* const shift = shift_.data() + r * cols_;
    positions(weight_.data() + r * cols_, row_offset_.data(), row_inverse_.data(), row_zero_.data(), shift,
              v_.data() + r * cols_, row_term_.data(), cols_);
    for (size_t i = 0; i < cols_; ++i) {
      const float code = start.codes[(first_row + r) * cols_ + inputs.order[i]];
      const float nearest = std::nearbyint(row_term_[i]);
      shift[i] = code == std::clamp(nearest, 0.0f, top_) ? 0.0f : code - nearest;
    }
  }
}

float SoftRounding::scale_of(size_t r, size_t group) const {
  const size_t at = r * groups_ + group;
  return stretch_[at] == 1.0f ? scale_[at] : storable_scale(scale_[at] * stretch_[at], spec_.scale_dtype);
}

// The maps of row r, by position.
void SoftRounding::expand(size_t r) {
  std::vector<float>& of_group = row_term_;
  for (size_t g = 0; g < groups_; ++g) of_group[g] = value_map(spec_, scale_of(r, g), 0).scale;
  for (size_t i = 0; i < cols_; ++i) {
    const size_t at = r * groups_ + group_of_[i];
    row_scale_[i] = of_group[group_of_[i]];
    row_zero_[i] = zero_[at];
    row_offset_[i] = offset_[at];
  }
  for (size_t i = 0; i < cols_; ++i) row_inverse_[i] = 1.0f / row_scale_[i];
}

void SoftRounding::forward() {
  for (size_t r = 0; r < rows_; ++r) {
    const size_t at = r * cols_;
    expand(r);
    positions(&weight_[at], row_offset_.data(), row_inverse_.data(), row_zero_.data(), &shift_[at], &v_[at],
              row_term_.data(), cols_);
    round_levels(&weight_[at], row_offset_.data(), row_scale_.data(), row_zero_.data(), live_.data(), top_,
                 row_term_.data(), &codes_[at], &difference_[at], cols_);
  }
  times_factor_transposed(inputs_, matrix<const float>(difference_.data(), rows_, cols_),
                          matrix(outputs_.data(), rows_, cols_));
  const auto dot = kernels::active().dot_f32;
  for (size_t r = 0; r < rows_; ++r) {
    const float* const output = &outputs_[r * cols_];
    const float* const d = &difference_[r * cols_];
    errors_[r] = double{dot(output, output, cols_)} - inputs_.damp * double{dot(d, d, cols_)};
  }
}

void SoftRounding::gradients(std::vector<float>& by_v, std::vector<float>& by_stretch) {
  by_v.resize(rows_ * cols_);
  by_stretch.assign(rows_ * groups_, 0.0f);
  times_factor(inputs_, matrix<const float>(outputs_.data(), rows_, cols_), matrix(by_v.data(), rows_, cols_));
  const auto damp = static_cast<float>(inputs_.damp);
  std::vector<float> y(cols_), term(cols_);
  for (size_t r = 0; r < rows_; ++r) {
    const size_t at = r * cols_;
    float* const gradient = &by_v[at];
    for (size_t i = 0; i < cols_; ++i) gradient[i] = 2 * live_[i] * (gradient[i] - damp * difference_[at + i]);
    expand(r);
    positions(&weight_[at], row_offset_.data(), row_inverse_.data(), row_zero_.data(), &shift_[at], &v_[at], y.data(),
              cols_);
    by_parameters(&weight_[at], row_offset_.data(), row_inverse_.data(), row_scale_.data(), row_zero_.data(), y.data(),
                  &codes_[at], top_, gradient, term.data(), cols_);
    for (size_t i = 0; i < cols_; ++i) by_stretch[r * groups_ + group_of_[i]] += term[i];
    for (size_t g = 0; g < groups_; ++g)
      by_stretch[r * groups_ + g] *= value_map(spec_, scale_[r * groups_ + g], 0).scale;
  }
}

void SoftRounding::store(size_t r, QuantizedMatrix& q, size_t to) const {
  for (size_t i = 0; i < cols_; ++i) q.codes[to * cols_ + inputs_.order[i]] = codes_[r * cols_ + i];
  if (spec_.per_tensor) return;
  for (size_t g = 0; g < groups_; ++g) q.scales[to * groups_ + g] = scale_of(r, g);
}

}  // namespace nibble
