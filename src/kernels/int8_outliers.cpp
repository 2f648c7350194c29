#include "kernels/int8_outliers.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "core/half.h"
#include "kernels/kernels.h"

namespace nibble::kernels {
namespace {

size_t split(const float* x, size_t cols, float* rest, uint32_t* columns, float* values) noexcept {
  size_t count = 0;
  for (size_t begin = 0; begin < cols; begin += kInt8Block) {
    const size_t end = std::min(cols, begin + kInt8Block);
    uint32_t first = 0, second = 0;  // bits of magnitudes: in the same order, and NaN is above infinity
    size_t at = begin;
    for (size_t c = begin; c < end; ++c) {
      rest[c] = x[c];
      const uint32_t magnitude = std::bit_cast<uint32_t>(x[c]) & 0x7fffffffu;
      if (magnitude > first) {
        second = first;
        first = magnitude;
        at = c;
      } else {
        second = std::max(second, magnitude);
      }
    }
    if (first >= 0x7f800000u || !(std::bit_cast<float>(first) > kOutlierRatio * std::bit_cast<float>(second))) continue;
    columns[count] = static_cast<uint32_t>(at);
    values[count++] = x[at];
    rest[at] = 0;
  }
  return count;
}

float value_of(const void* values, DType dtype, size_t i) noexcept {
  if (dtype == DType::kF32) return static_cast<const float*>(values)[i];
  const uint16_t bits = static_cast<const uint16_t*>(values)[i];
  return dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

void load(const Int8Tile& w, const uint32_t* columns, size_t count, float* out, size_t stride) noexcept {
  uint8_t steps[kInt8Steps * kInt8Vector];
  for (size_t k = 0; k < count; ++k) {
    const size_t block = columns[k] / kInt8Block, within = columns[k] % kInt8Block, group = columns[k] / w.group;
    const Int8Table& unpacker = *available_int8().back();
    unpacker.unpack(w.codes + block * int8_block_bytes(w.bits), w.bits, 1, steps);
    for (size_t r = 0; r < kInt8Rows; ++r) {
      const size_t at = group * kInt8Rows + r;
      const uint8_t bits = steps[within / 4 * kInt8Vector + 4 * r + within % 4];
      const auto code = static_cast<float>(bits);
      const float scale = value_of(w.scales, w.scale_dtype, at);
      const auto zero = static_cast<float>(w.zeros != nullptr ? w.zeros[at] : w.zero);
      out[k * stride + r] =
          w.mins != nullptr ? scale * code + value_of(w.mins, w.scale_dtype, at) : scale * (code - zero);
    }
  }
}

void add(const float* loaded, size_t rows, const uint32_t* at, const float* values, size_t count, float* y) noexcept {
  for (size_t k = 0; k < count; ++k)
    for (size_t r = 0; r < rows; ++r) y[r] = std::fma(values[k], loaded[at[k] * rows + r], y[r]);
}

bool always() { return true; }

constexpr OutlierTable kScalar = {"scalar", always, split, load, add};

}  // namespace

#if defined(__x86_64__)
extern const OutlierTable outliers_avx512, outliers_avx2;
#endif

std::span<const OutlierTable* const> available_outliers() {
  static const std::vector<const OutlierTable*> usable = [] {
    std::vector<const OutlierTable*> found;
#if defined(__x86_64__)
    for (const OutlierTable* table : {&outliers_avx512, &outliers_avx2})
      if (table->usable()) found.push_back(table);
#endif
    found.push_back(&kScalar);
    return found;
  }();
  return usable;
}

const OutlierTable& active_outliers() {
  static const OutlierTable& chosen = []() -> const OutlierTable& {
    for (const OutlierTable* table : available_outliers())
      if (table->name == active().name) return *table;
    return kScalar;
  }();
  return chosen;
}

}  // namespace nibble::kernels
