#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/row_products.h"

// Weights whose codes name levels of a table: four bits for one of 16 (NF4, FP4, IQ4_NL), or eight for an FP8 number
// (E4M3: sign, four bits of exponent with bias 7, three of mantissa; no infinities, NaN where the low seven bits are
// set). Codes stay packed as they are stored.
namespace nibble::kernels {

struct Table;

struct GridRows {
  const uint8_t* codes;  // [rows]: an LSB-first stream of fields each, `stride` bytes apart
  size_t stride;
  size_t rows, cols;
  const float* scales;  // [rows, ceil(cols / group)]
  size_t scale_stride;  // from row to row; 0: all rows share theirs
  size_t group;         // columns that share a scale
  const float* x;       // [tokens, cols] or arranged (see there), rows x_stride apart; 1 <= tokens <= kFewTokens
  size_t tokens, x_stride;
  float* y;  // [tokens, rows], rows y_stride apart
  size_t y_stride;
};

// Groups that GridTable::levels accepts: 16, 32, 64, multiples of 128, the whole row.
constexpr bool accepts_level_group(size_t group, size_t cols) {
  return group >= cols || group == 16 || group == 32 || group == 64 || group % 128 == 0;
}
// Floats that arrange() writes.
constexpr size_t arranged_size(size_t cols) { return (cols + 127) / 128 * 128; }

// One table per instruction set. Entries never allocate, throw or touch memory outside their arguments. Every code is
// read once; the order of a sum depends on `tokens`, `cols` and `group` only.
struct GridTable {
  std::string_view kernels;  // the Table (kernels.h) that it goes with

  // One token's inputs in the order in which levels() meets the codes, 0 beyond the last: [arranged_size(cols)].
  void (*arrange)(const float* x, size_t cols, float* out) noexcept;
  // y[t][r] = sum_c scale[r][c / group] * levels[code[r][c]] * x[t][c], 4-bit codes, levels [16], x arranged.
  void (*levels)(const GridRows& p, const float* levels) noexcept;
  // y[t][r] = sum_c scale[r][c / group] * fp8(code[r][c]) * x[t][c], x as it is; any group.
  void (*fp8)(const GridRows& p) noexcept;

  // out[i] = scale * levels[codes[i]], codes one to a byte, below 16. Bit-equal in every table.
  void (*scale_levels)(const uint8_t* codes, const float* levels, float scale, float* out, size_t n) noexcept;
  // out[i] = scale * fp8(codes[i]). Bit-equal in every table (NaN payloads excepted).
  void (*scale_fp8)(const uint8_t* codes, float scale, float* out, size_t n) noexcept;
};

const GridTable& grid_table(const Table& table);  // the one that goes with `table`
const GridTable& active_grids();                  // the one that goes with active()

}  // namespace nibble::kernels
