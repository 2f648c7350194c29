#pragma once
#include <cstddef>
#include <string_view>

// The error of one group of weights on many integer grids at once: what a search for scales spends its time on.
namespace nibble::kernels {

struct GridErrors {
  const float* w;  // [weights]
  const float* h;  // [weights], importances
  size_t weights;
  // Of each grid, [grids]: value = scale * clamp(rint(w / scale), low, high); low and high are whole.
  const float* scale;
  const float* inverse;  // 1 / scale
  const float* low;
  const float* high;
  size_t grids;
  float* errors;  // [grids]: sum_j h_j (value - w_j)^2, in float, in the order of j
};

// One table per instruction set; entries never allocate, throw or touch memory outside their arguments.
struct GridErrorTable {
  std::string_view kernels;  // the Table (kernels.h) that it goes with
  void (*integers)(const GridErrors& p) noexcept;
};

struct Table;
const GridErrorTable& grid_error_table(const Table& table);  // the one that goes with `table`

}  // namespace nibble::kernels
