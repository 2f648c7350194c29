#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

// Rounding with error feedback (GPTQ) for 32 rows of a weight side by side: each row is a lane, so that everything is a
// loop over independent lanes. A column of 32 lanes is contiguous.
namespace nibble::kernels {

inline constexpr size_t kRowLanes = 32;
inline constexpr size_t kLaneBlock = 8;  // columns whose sums stay in registers

// An integer grid for each lane: value = scale * (code - zero) + offset; zero or offset is 0. [kRowLanes] each.
struct LaneGrid {
  const float* scale;
  const float* zero;
  const float* offset;
};

// Up to kLaneBlock columns to round one after the other, columns `first`, first + 1, ... of a lower triangular L.
struct LaneColumns {
  const float* const* rows;  // [count]: rows first + i of L
  size_t first, count;
  const LaneGrid* grids;  // [count]
  float top;              // largest code
  float* x;               // [count, kRowLanes]: weights; become differences weight - value
  float* sums;            // [count, kRowLanes]: sum_{j < first} L[first + i][j] d_j; become those over j <= first + i
  uint8_t* codes;         // [count, kRowLanes]
};

// One table per instruction set; entries never allocate, throw or touch memory outside their arguments.
struct LaneTable {
  std::string_view kernels;  // the Table (kernels.h) that it goes with
  // sums[i][lane] = sum_{j < depth} rows[i][j] * x[j][lane] for i < count <= kLaneBlock, in the order of j.
  void (*products)(const float* const* rows, size_t count, const float* x, size_t depth, float* sums) noexcept;
  // For each column: code = clamp(rint((x + sum / L_ii - offset) / scale) + zero, 0, top), rint to even.
  void (*round)(const LaneColumns& p) noexcept;
  // sums[g (g + 1) / 2 + h][lane] += sum_{i < depth} v[g][i][lane] * v[h][i][lane] for h <= g < count.
  void (*gram)(const float* v, size_t count, size_t depth, float* sums) noexcept;
  // Products with kLaneBlock columns of a packed lower triangle from `row` on: l points at their first element in that
  // row, the same element of the next row is row + 1 floats further, and so on; all `rows` of them have these columns.
  //   gather: sums[k][lane] += sum_i l_i[k] * e[i][lane]     spread: e[i][lane] += sum_k l_i[k] * d[k][lane]
  void (*gather)(const float* l, size_t row, size_t rows, const float* e, float* sums) noexcept;
  void (*spread)(const float* l, size_t row, size_t rows, const float* d, float* e) noexcept;
};

struct Table;
const LaneTable& lane_table(const Table& table);  // the one that goes with `table`

}  // namespace nibble::kernels
