#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/tensor.h"

// Compute level bf16: weights and activations rounded to bf16 (to nearest even), their products summed in float.
namespace nibble::kernels {

struct Table;

// Gives parts of the rows of a weight as bf16, whatever its storage.
struct Bf16Loader {
  const void* self;
  // Columns [begin, begin + count) of one row.
  void (*load)(const void* self, size_t row, size_t begin, size_t count, uint16_t* out) noexcept;
};

// Instructions that multiply pairs of bf16 numbers and add both products to a float. Entries never allocate, throw or
// touch memory outside their arguments. Subnormal numbers may count as 0.
struct Bf16Table {
  std::string_view name;     // "avx512bf16"
  std::string_view kernels;  // the Table (kernels.h) that it goes with
  bool (*usable)();          // may this CPU and OS run the entries?
  bool (*fast)();            // do they beat floats on this CPU?

  // One tile: acc[t][r] (+)= sum_p x[t][2 p] * w[p][r][0] + x[t][2 p + 1] * w[p][r][1] for t < tokens <= tile_tokens,
  // r < tile_rows, p < pairs. w is a packed panel [pairs, tile_rows, 2], aligned to 64 bytes; x has row stride x_stride
  // (even), acc acc_stride. `add` false: acc is overwritten.
  size_t tile_tokens;
  size_t tile_rows;
  void (*gemm_tile)(const uint16_t* x, size_t x_stride, const uint16_t* w, size_t pairs, float* acc, size_t acc_stride,
                    size_t tokens, bool add) noexcept;

  // The packing of a panel: out[c / 2][r][c % 2] = in[r][c] for r < rows, c < cols; 0 beside the last of an odd number
  // of columns. The pairs of one row are out_stride pairs apart.
  void (*pack_pairs)(const uint16_t* in, size_t in_stride, size_t rows, size_t cols, uint16_t* out,
                     size_t out_stride) noexcept;
};

// The table of such instructions that goes with `table`; null where there are none or this CPU lacks them.
const Bf16Table* find_bf16(const Table& table);
// The same; null also where floats are faster on this CPU.
const Bf16Table* fast_bf16(const Table& table);

// y[t][r] = bias[r] + sum_c bf16(x[t][c]) * w[r][c] for r < y.cols; x is [tokens, depth], y is [tokens, rows]. `bias`
// may be null. Each weight element is loaded once per call. Parallel over rows; every sum's order depends only on the
// shapes and the tables. Without instructions for bf16, or where they are slow, the same products are computed with
// floats. Allocates its scratch once per thread.
void gemm_bf16(MatrixView<const float> x, const Bf16Loader& w, const float* bias, MatrixView<float> y);
// The same with given kernels, `units` null or find_bf16(table): for tests and benchmarks.
void gemm_bf16(const Table& table, const Bf16Table* units, MatrixView<const float> x, const Bf16Loader& w,
               const float* bias, MatrixView<float> y);

}  // namespace nibble::kernels
