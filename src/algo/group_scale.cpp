#include "algo/group_scale.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "algo/per_table.h"
#include "core/error.h"
#include "core/half.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

// A 16-level grid in ascending order. A value belongs to the level after the last threshold that it reaches; a
// threshold is the midpoint of two levels, or the next float when ties must go to the lower one.
struct SortedGrid {
  std::array<float, 15> thresholds{};
  std::array<uint8_t, 16> codes{};
  size_t levels = 0;  // 15 where two zeros are one level
};

SortedGrid sort_grid(Grid grid) {
  const std::span<const float> levels = grid_levels(grid);
  SortedGrid sorted;
  for (size_t code = 0; code < levels.size(); ++code)
    if (levels[code] != 0.0f || !std::signbit(levels[code])) sorted.codes[sorted.levels++] = static_cast<uint8_t>(code);
  std::sort(sorted.codes.begin(), sorted.codes.begin() + static_cast<ptrdiff_t>(sorted.levels),
            [&](uint8_t a, uint8_t b) { return levels[a] < levels[b]; });
  sorted.thresholds.fill(std::numeric_limits<float>::infinity());
  for (size_t k = 0; k + 1 < sorted.levels; ++k) {
    const uint8_t below = sorted.codes[k], above = sorted.codes[k + 1];
    const float middle = 0.5f * (levels[below] + levels[above]);
    sorted.thresholds[k] = above % 2 == 0 ? middle : std::nextafter(middle, std::numeric_limits<float>::infinity());
  }
  return sorted;
}

const SortedGrid& sorted_grid(Grid grid) {
  static const PerTable16<SortedGrid> sorted(sort_grid);
  return sorted[grid];
}

void encode_table(const SortedGrid& grid, float scale, std::span<const float> weights, uint8_t* codes) noexcept {
  for (size_t i = 0; i < weights.size(); ++i) {
    const float x = weights[i] / scale;
    int level = 0;
    for (float threshold : grid.thresholds) level += x >= threshold ? 1 : 0;
    codes[i] = grid.codes[static_cast<size_t>(level)];
  }
}

// Nearest E4M3 bit pattern, ties to even, saturating.
uint8_t fp8_code(float x) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const float magnitude = std::min(std::bit_cast<float>(bits & 0x7fffffffu), 448.0f);
  const uint32_t m = std::bit_cast<uint32_t>(magnitude);
  // Below 2^-6 the spacing is 2^-9: adding 2^14 leaves exactly that many mantissa bits, and rounds. Above, round the
  // mantissa at bit 20 and move the exponent's bias from 127 to 7.
  const uint32_t subnormal = std::bit_cast<uint32_t>(magnitude + 0x1p14f) - std::bit_cast<uint32_t>(0x1p14f);
  const uint32_t normal = ((m + 0x7ffffu + ((m >> 20) & 1u)) >> 20) - (120u << 3);
  return static_cast<uint8_t>(sign | (magnitude < 0x1p-6f ? subnormal : normal));
}

float largest_level(Grid grid) {
  switch (grid) {
    case Grid::kFP4:
      return 6.0f;
    case Grid::kFP8:
      return 448.0f;
    case Grid::kIQ4NL:
      return 127.0f;
    default:
      return 1.0f;
  }
}

bool one_bit_signs(const QuantSpec& spec) { return spec.grid == Grid::kInt && spec.bits == 1 && spec.symmetric; }

}  // namespace

float storable_scale(float scale, DType dtype) {
  float smallest = 0x1p-126f, largest = std::numeric_limits<float>::max(), magnitude = std::abs(scale);
  if (dtype == DType::kF16) {
    magnitude = f16_to_f32(f32_to_f16(magnitude));
    smallest = 0x1p-24f;
    largest = 65504.0f;
  } else if (dtype == DType::kBF16) {
    magnitude = bf16_to_f32(f32_to_bf16(magnitude));
    largest = bf16_to_f32(0x7f7f);
  }
  return std::copysign(std::clamp(magnitude, smallest, largest), scale);
}

float storable_min(float min, DType dtype) {
  if (dtype == DType::kF16) return std::clamp(f16_to_f32(f32_to_f16(min)), -65504.0f, 65504.0f);
  const float largest = dtype == DType::kBF16 ? bf16_to_f32(0x7f7f) : std::numeric_limits<float>::max();
  return std::clamp(dtype == DType::kBF16 ? bf16_to_f32(f32_to_bf16(min)) : min, -largest, largest);
}

GroupScale fit_range(const QuantSpec& spec, float lo, float hi, float clip) {
  if (lo == 0.0f && hi == 0.0f) return {};
  const float extreme = -lo >= hi ? lo : hi;
  const auto half = static_cast<float>(1 << (spec.bits - 1));
  GroupScale map;
  if (spec.grid != Grid::kInt) {
    map.scale = storable_scale(std::abs(extreme) * clip / largest_level(spec.grid), spec.scale_dtype);
  } else if (one_bit_signs(spec)) {
    map.scale = storable_scale(0.5f * std::abs(extreme) * clip, spec.scale_dtype);
  } else if (spec.full_range) {
    map.scale = storable_scale(extreme * clip / -half, spec.scale_dtype);
  } else if (spec.symmetric) {
    map.scale = storable_scale(std::abs(extreme) * clip / (half - 1.0f), spec.scale_dtype);
  } else {
    const float levels = 2.0f * half - 1.0f;
    lo = std::min(lo, 0.0f) * clip;
    hi = std::max(hi, 0.0f) * clip;
    const float range = hi - lo;
    map.scale = storable_scale(std::isfinite(range) ? range / levels : hi / levels - lo / levels, spec.scale_dtype);
    map.zero = static_cast<uint8_t>(std::clamp(std::nearbyint(-lo / map.scale), 0.0f, levels));
  }
  return map;
}

GroupScale fit_group(const QuantSpec& spec, std::span<const float> weights, float clip) {
  if (weights.empty()) return {};
  float lo = 0.0f, hi = 0.0f;
  kernels::active().min_max(weights.data(), weights.size(), &lo, &hi);
  if (!std::isfinite(lo) || !std::isfinite(hi))
    throw Error(ErrorKind::kCorrupt,
                "a weight is not a finite number; the checkpoint is damaged or its training diverged");
  if (!one_bit_signs(spec) || (lo == 0.0f && hi == 0.0f)) return fit_range(spec, lo, hi, clip);
  double sum = 0;
  for (float w : weights) sum += std::abs(w);
  const auto mean = static_cast<float>(sum / static_cast<double>(weights.size()));
  return {storable_scale(mean * clip, spec.scale_dtype), 0};
}

void encode_group(const QuantSpec& spec, const GroupScale& map, std::span<const float> weights,
                  uint8_t* codes) noexcept {
  if (spec.grid == Grid::kFP8) {
    for (size_t i = 0; i < weights.size(); ++i) codes[i] = fp8_code(weights[i] / map.scale);
  } else if (spec.grid != Grid::kInt) {
    encode_table(sorted_grid(spec.grid), map.scale, weights, codes);
  } else if (one_bit_signs(spec)) {
    for (size_t i = 0; i < weights.size(); ++i) codes[i] = weights[i] >= 0.0f ? 1 : 0;
  } else {
    const auto zero = static_cast<float>(spec.symmetric ? spec.symmetric_zero() : map.zero);
    const auto top = static_cast<float>((1 << spec.bits) - 1);
    kernels::active().encode(weights.data(), weights.size(), map.scale, zero, 0.0f, top, codes);
  }
}

}  // namespace nibble
