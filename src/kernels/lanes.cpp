#include "kernels/lanes.h"

#include <cmath>

#include "kernels/kernels.h"

namespace nibble::kernels {

#if defined(__x86_64__)
extern const LaneTable avx512_lanes, avx2_lanes;
#endif

namespace {

// The definition.
void products(const float* const* rows, size_t count, const float* x, size_t depth, float* sums) noexcept {
  for (size_t i = 0; i < count; ++i) {
    float total[kRowLanes] = {};
    for (size_t j = 0; j < depth; ++j)
      for (size_t lane = 0; lane < kRowLanes; ++lane) total[lane] += rows[i][j] * x[j * kRowLanes + lane];
    for (size_t lane = 0; lane < kRowLanes; ++lane) sums[i * kRowLanes + lane] = total[lane];
  }
}

void round(const LaneColumns& p) noexcept {
  for (size_t i = 0; i < p.count; ++i) {
    const float diagonal = p.rows[i][p.first + i], inverse = 1.0f / diagonal;
    const LaneGrid& grid = p.grids[i];
    float* const x = p.x + i * kRowLanes;
    float* const sums = p.sums + i * kRowLanes;
    for (size_t lane = 0; lane < kRowLanes; ++lane) {
      const float scale = grid.scale[lane], zero = grid.zero[lane], offset = grid.offset[lane];
      const float target = x[lane] + sums[lane] * inverse;
      float level = (target - offset) / scale;
      // Clamped before it is rounded, which is the same for whole bounds. A NaN becomes the lowest level.
      const float low = -zero, high = p.top - zero;
      level = level > low ? level : low;
      level = level < high ? level : high;
      level = (level + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23 leaves no fraction bits: rounds to even
      p.codes[i * kRowLanes + lane] = static_cast<uint8_t>(level + zero);
      x[lane] -= level * scale + offset;
      sums[lane] += diagonal * x[lane];
    }
    for (size_t k = i + 1; k < p.count; ++k)
      for (size_t lane = 0; lane < kRowLanes; ++lane) p.sums[k * kRowLanes + lane] += p.rows[k][p.first + i] * x[lane];
  }
}

void gram(const float* v, size_t count, size_t depth, float* sums) noexcept {
  for (size_t g = 0; g < count; ++g)
    for (size_t h = 0; h <= g; ++h, sums += kRowLanes) {
      float total[kRowLanes] = {};
      for (size_t i = 0; i < depth; ++i)
        for (size_t lane = 0; lane < kRowLanes; ++lane)
          total[lane] += v[(g * depth + i) * kRowLanes + lane] * v[(h * depth + i) * kRowLanes + lane];
      for (size_t lane = 0; lane < kRowLanes; ++lane) sums[lane] += total[lane];
    }
}

void gather(const float* l, size_t row, size_t rows, const float* e, float* sums) noexcept {
  for (size_t i = 0; i < rows; l += row + ++i)
    for (size_t k = 0; k < kLaneBlock; ++k)
      for (size_t lane = 0; lane < kRowLanes; ++lane) sums[k * kRowLanes + lane] += l[k] * e[i * kRowLanes + lane];
}

void spread(const float* l, size_t row, size_t rows, const float* d, float* e) noexcept {
  for (size_t i = 0; i < rows; l += row + ++i)
    for (size_t k = 0; k < kLaneBlock; ++k)
      for (size_t lane = 0; lane < kRowLanes; ++lane) e[i * kRowLanes + lane] += l[k] * d[k * kRowLanes + lane];
}

constexpr LaneTable kScalarLanes = {"scalar", products, round, gram, gather, spread};

}  // namespace

const LaneTable& lane_table(const Table& table) {
#if defined(__x86_64__)
  for (const LaneTable* lanes : {&avx512_lanes, &avx2_lanes})
    if (lanes->kernels == table.name) return *lanes;
#endif
  static_cast<void>(table);
  return kScalarLanes;
}

}  // namespace nibble::kernels
