#pragma once
#include <cstddef>
#include <span>
#include <string_view>

// Products of few tokens with the rows of a dense weight, at the speed at which its rows can be read.
namespace nibble::kernels {

inline constexpr size_t kFewTokens = 8;

struct DenseRows {
  const void* weights;  // [rows, cols], F32, F16 or BF16 as the entry says, aligned for their type; no gaps
  size_t rows, cols;
  const float* x;  // [tokens, cols], rows x_stride apart; 1 <= tokens <= kFewTokens
  size_t tokens, x_stride;
  float* y;  // [tokens, rows], rows y_stride apart
  size_t y_stride;
};

// y[t][r] = sum_c weights[r][c] * x[t][c], float accumulation in an order that depends on `tokens` and `cols` only.
// Every weight is read once. One table per instruction set; entries never allocate, throw or touch memory outside their
// arguments.
struct RowTable {
  std::string_view kernels;  // the Table (kernels.h) that it goes with
  void (*f32)(const DenseRows& p) noexcept;
  void (*f16)(const DenseRows& p) noexcept;
  void (*bf16)(const DenseRows& p) noexcept;
};

struct Table;
const RowTable& row_table(const Table& table);  // the one that goes with `table`

}  // namespace nibble::kernels
