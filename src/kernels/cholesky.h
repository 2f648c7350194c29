#pragma once
#include <cstddef>
#include <string_view>

// The inner loops of a blocked factorization H = L^T L in double, L lower triangular. It runs over blocks of rows from
// the last one up; the columns of a block lie in panels: [depth, panel_cols], depth the rows of the block.
namespace nibble::kernels {

// One table per instruction set; entries never allocate, throw or touch memory outside their arguments.
struct CholeskyTable {
  std::string_view kernels;  // the Table (kernels.h) that it goes with
  size_t tile_rows;
  size_t panel_cols;  // a multiple of tile_rows
  // Solves U X = A: upper is U, [depth, depth], upper triangular (what is below is not read); the panel A becomes X.
  void (*solve)(const double* upper, size_t depth, double* panel) noexcept;
  // out[r][c] = sum_i a[i][r] b[i][c] for r < tile_rows, c < panel_cols; out is dense. b is a panel; a is one, or its
  // part that begins at some column.
  void (*products)(const double* a, const double* b, size_t depth, double* out) noexcept;
};

struct Table;
const CholeskyTable& cholesky_table(const Table& table);  // the one that goes with `table`

}  // namespace nibble::kernels
