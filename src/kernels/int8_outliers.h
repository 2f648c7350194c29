#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/int8.h"

// What int8 activations cannot hold. A block of 32 activations shares one scale, so that a single large value costs the
// other 31 their precision. Where a block's largest magnitude is more than kOutlierRatio times its second largest, it
// is taken out and multiplied in float. On SmolLM2-135M at int4 g64 a tenth of the blocks have such a value, and taking
// it out lowers the mean KL divergence that the quantized activations cause from .0030 to .0010 (a ratio of 2: a fifth
// of the blocks, .0008).
namespace nibble::kernels {

inline constexpr float kOutlierRatio = 3;

// One table per instruction set. All agree to the last bit. Entries never allocate, throw or touch memory outside their
// arguments.
struct OutlierTable {
  std::string_view name;  // of the Table (kernels.h) that it goes with
  bool (*usable)();

  // Copies x [cols] to `rest`, but for outliers, which are 0 there; columns and values of those, in their order, at
  // most one for each block. Returns how many. Blocks with NaN or infinity have none.
  size_t (*split)(const float* x, size_t cols, float* rest, uint32_t* columns, float* values) noexcept;

  // Columns, in rising order, of the 16 rows of a packed tile, dequantized: out[k * stride + r].
  void (*load)(const Int8Tile& w, const uint32_t* columns, size_t count, float* out, size_t stride) noexcept;

  // y[r] += values[k] * loaded[at[k] * rows + r] for k = 0 .. count - 1 in this order, fused; rows is a multiple of 16.
  void (*add)(const float* loaded, size_t rows, const uint32_t* at, const float* values, size_t count,
              float* y) noexcept;
};

std::span<const OutlierTable* const> available_outliers();  // usable on this CPU, best first, "scalar" last
const OutlierTable& active_outliers();                      // the one that goes with active()

}  // namespace nibble::kernels
