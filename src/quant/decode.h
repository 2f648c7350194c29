#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/grid_rows.h"
#include "kernels/kernels.h"
#include "quant/quantized_matrix.h"

// Inside quant: the values of a stretch of one row, shared by QuantizedMatrix and PackedMatrix.
namespace nibble {

// What one row has beside its codes. Null: absent, as in QuantizedMatrix.
struct RowGroups {
  const QuantSpec& spec;
  size_t cols;
  const float* scales;       // [groups]
  const uint8_t* zeros;      // [groups]
  const float* mins;         // [groups]
  const uint32_t* group_of;  // [cols]
};

// The row `row` of a matrix that keeps its arrays as QuantizedMatrix does.
template <class Matrix>
RowGroups row_groups(const Matrix& m, size_t row) {
  const size_t first = m.spec.per_tensor ? 0 : row * m.groups();
  return {m.spec,
          m.cols,
          m.scales.data() + first,
          m.zeros.empty() ? nullptr : m.zeros.data() + first,
          m.mins.empty() ? nullptr : m.mins.data() + first,
          m.group_of.empty() ? nullptr : m.group_of.data()};
}

// Calls body(group, from, to) for each maximal run of columns in [begin, end) that share a group.
template <class Body>
void for_each_group(const RowGroups& row, size_t begin, size_t end, const Body& body) {
  const size_t size = std::max<size_t>(row.spec.group_size(row.cols), 1);
  for (size_t from = begin; from < end;) {
    size_t group = 0, to = from + 1;
    if (row.group_of != nullptr) {
      group = row.group_of[from];
      while (to < end && row.group_of[to] == group) ++to;
    } else {
      group = from / size;
      to = std::min(end, (group + 1) * size);
    }
    body(group, from, to);
    from = to;
  }
}

// out[i] = value of column begin + i; codes[i] is its code.
inline void decode_columns(const RowGroups& row, const uint8_t* codes, size_t begin, size_t count,
                           float* out) noexcept {
  const kernels::Table& kernel = kernels::active();
  const float* const levels = grid_levels(row.spec.grid).data();
  for_each_group(row, begin, begin + count, [&](size_t group, size_t from, size_t to) {
    const uint8_t* const c = codes + (from - begin);
    float* const y = out + (from - begin);
    const float scale = row.scales[group];
    if (row.spec.grid == Grid::kFP8) {
      kernels::active_grids().scale_fp8(c, scale, y, to - from);
    } else if (levels != nullptr) {
      kernels::active_grids().scale_levels(c, levels, scale, y, to - from);
    } else if (row.mins != nullptr) {
      kernel.scale_codes_min(c, scale, row.mins[group], y, to - from);
    } else {
      const int zero = row.zeros != nullptr ? row.zeros[group] : row.spec.symmetric_zero();
      const ValueMap map = value_map(row.spec, scale, zero);
      kernel.scale_codes(c, map.scale, map.zero, y, to - from);
    }
  });
}

}  // namespace nibble
