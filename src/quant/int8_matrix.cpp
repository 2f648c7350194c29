#include "quant/int8_matrix.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>

#include "core/checked.h"
#include "core/half.h"
#include "core/threads.h"
#include "core/weight_memory.h"
#include "quant/decode.h"

namespace nibble {
namespace {

using kernels::Int8Tile;
using kernels::kInt8Block;
using kernels::kInt8Rows;
using kernels::kInt8SignOnly;
using kernels::kInt8Steps;
using kernels::kInt8Vector;

constexpr size_t kStepsBytes = kInt8Steps * kInt8Vector;  // of one unpacked block

size_t size_of(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

// Floats to `dtype`: F32, F16 or BF16.
void narrow(const float* in, DType dtype, size_t n, void* out) {
  if (dtype == DType::kF16)
    kernels::active().f32_to_f16(in, static_cast<uint16_t*>(out), n);
  else if (dtype == DType::kBF16)
    kernels::active().f32_to_bf16(in, static_cast<uint16_t*>(out), n);
  else
    std::memcpy(out, in, n * sizeof(float));
}

float widen(const void* from, DType dtype, size_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(from)[i];
  const uint16_t half = static_cast<const uint16_t*>(from)[i];
  return dtype == DType::kF16 ? f16_to_f32(half) : bf16_to_f32(half);
}

bool all_fit(const std::vector<float>& values, DType dtype) {
  const auto back = dtype == DType::kF16 ? kernels::active().f16_to_f32 : kernels::active().bf16_to_f32;
  std::atomic<bool> fit = true;
  parallel_for(values.size(), 65536, [&](size_t begin, size_t end) {
    uint16_t halves[512];
    float again[512];
    for (size_t i = begin; i < end && fit.load(std::memory_order_relaxed); i += 512) {
      const size_t n = std::min<size_t>(512, end - i);
      narrow(values.data() + i, dtype, n, halves);
      back(halves, again, n);
      if (!std::equal(again, again + n, values.data() + i)) fit = false;
    }
  });
  return fit;
}

// The smallest type that holds all of them exactly.
DType type_for(const PackedMatrix& packed) {
  for (const DType dtype : {DType::kF16, DType::kBF16})
    if (all_fit(packed.scales, dtype) && all_fit(packed.mins, dtype)) return dtype;
  return DType::kF32;
}

// The rows of one tile, which may be fewer than 16: element `first` + r * stride + g of `from` is row r's, group g's.
struct TileRows {
  size_t count, groups, first, stride;
};

// [rows, groups] to [groups, 16] of `dtype`; what is missing is 0.
void place(const std::vector<float>& from, const TileRows& rows, size_t groups, DType dtype, uint8_t* to) {
  for (size_t g = 0; g < groups; ++g) {
    float values[kInt8Rows] = {};
    for (size_t r = 0; r < rows.count && g < rows.groups; ++r) values[r] = from[rows.first + r * rows.stride + g];
    narrow(values, dtype, kInt8Rows, to + g * kInt8Rows * size_of(dtype));
  }
}

void place(const std::vector<uint8_t>& from, const TileRows& rows, size_t groups, uint8_t* to) {
  std::fill_n(to, groups * kInt8Rows, uint8_t{0});
  for (size_t r = 0; r < rows.count; ++r)
    for (size_t g = 0; g < rows.groups; ++g) to[g * kInt8Rows + r] = from[rows.first + r * rows.stride + g];
}

// Codes of rows [first, first + count) to `out`, block by block. A stretch of columns at a time, which stays in the
// L1 cache.
void place_codes(const PackedMatrix& packed, size_t first, size_t count, int bits, size_t blocks, uint8_t* out) {
  constexpr size_t kBlocks = 16;
  constexpr size_t kStretch = kBlocks * kInt8Block;
  uint8_t codes[kInt8Rows * kStretch] = {};
  for (size_t b = 0; b < blocks; b += kBlocks) {
    const size_t begin = b * kInt8Block, cols = std::min(kStretch, packed.cols - begin);
    const size_t some = std::min(kBlocks, blocks - b);
    for (size_t r = 0; r < count; ++r) {
      uint8_t* const row = codes + r * kStretch;
      unpack_codes(packed.codes + (first + r) * packed.row_stride, packed.spec.bits, begin, cols, row);
      std::fill(row + cols, row + some * kInt8Block, uint8_t{0});
    }
    kernels::active_int8().pack(codes, kStretch, bits, some, out + b * kernels::int8_block_bytes(bits));
  }
}

}  // namespace

bool Int8Matrix::accepts(const PackedMatrix& packed) {
  return packed.spec.grid == Grid::kInt && packed.group_of.empty() && packed.rows > 0 && packed.cols > 0 &&
         (packed.spec.group % (kInt8Block / 2) == 0 || packed.spec.group >= packed.cols);
}

Int8Matrix::Int8Matrix(const PackedMatrix& packed) : spec_(packed.spec), rows_(packed.rows), cols_(packed.cols) {
  assert(accepts(packed));
  tiles_ = ceil_div(rows_, kInt8Rows);
  blocks_ = ceil_div(cols_, kInt8Block);
  const size_t padded_cols = blocks_ * kInt8Block, real_groups = packed.groups();
  group_ = real_groups == 1 ? padded_cols : spec_.group;
  groups_ = ceil_div(padded_cols, group_);
  bits_ = spec_.bits == 1 && spec_.symmetric ? kInt8SignOnly : spec_.bits;
  scale_dtype_ = type_for(packed);

  const size_t scale_bytes = groups_ * kInt8Rows * size_of(scale_dtype_);
  const auto append = [this](size_t bytes) {
    const size_t at = tile_bytes_;
    tile_bytes_ += round_up(bytes, kInt8Vector);
    return at;
  };
  append(scale_bytes);
  if (!packed.mins.empty()) mins_at_ = append(scale_bytes);
  if (!packed.zeros.empty()) zeros_at_ = append(groups_ * kInt8Rows);
  codes_at_ = append(blocks_ * kernels::int8_block_bytes(bits_));
  const auto memory = weight_memory(checked_mul(tiles_, tile_bytes_, "packed weight"));
  memory_ = {memory, reinterpret_cast<uint8_t*>(memory.get())};

  parallel_for(tiles_, 4, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      uint8_t* const tile = memory_.get() + i * tile_bytes_;
      const size_t first = i * kInt8Rows;
      TileRows rows{std::min(kInt8Rows, rows_ - first), real_groups, first * real_groups, real_groups};
      if (spec_.per_tensor) rows.first = rows.stride = 0;
      place_codes(packed, first, rows.count, bits_, blocks_, tile + codes_at_);
      place(packed.scales, rows, groups_, scale_dtype_, tile);
      if (mins_at_ != 0) place(packed.mins, rows, groups_, scale_dtype_, tile + mins_at_);
      if (zeros_at_ != 0) place(packed.zeros, rows, groups_, tile + zeros_at_);
    }
  });
}

size_t Int8Matrix::bytes() const { return tiles_ * tile_bytes_; }

Int8Tile Int8Matrix::tile(size_t index) const {
  const uint8_t* const tile = memory_.get() + index * tile_bytes_;
  int zero = 0;
  if (zeros_at_ == 0 && mins_at_ == 0) zero = bits_ == kInt8SignOnly ? 1 : spec_.symmetric_zero();
  return {.codes = tile + codes_at_,
          .bits = bits_,
          .blocks = blocks_,
          .group = group_,
          .scale_dtype = scale_dtype_,
          .scales = tile,
          .zeros = zeros_at_ != 0 ? tile + zeros_at_ : nullptr,
          .zero = zero,
          .mins = mins_at_ != 0 ? tile + mins_at_ : nullptr};
}

void Int8Matrix::load_row(size_t row, size_t begin, size_t count, float* out) const noexcept {
  const Int8Tile w = tile(row / kInt8Rows);
  const size_t r = row % kInt8Rows;
  uint8_t steps[kStepsBytes], codes[kInt8Block];
  for (size_t c = begin; c < begin + count;) {
    const size_t b = c / kInt8Block, end = std::min((b + 1) * kInt8Block, begin + count);
    kernels::active_int8().unpack(w.codes + b * kernels::int8_block_bytes(bits_), bits_, 1, steps);
    for (size_t s = 0; s < kInt8Steps; ++s) std::memcpy(codes + 4 * s, steps + s * kInt8Vector + 4 * r, 4);
    for (; c < end; ++c, ++out) {
      const size_t at = c / group_ * kInt8Rows + r;
      const float scale = widen(w.scales, scale_dtype_, at);
      const int zero = w.zeros != nullptr ? w.zeros[at] : w.zero, code = codes[c % kInt8Block];
      *out = w.mins != nullptr ? scale * static_cast<float>(code) + widen(w.mins, scale_dtype_, at)
                               : scale * static_cast<float>(code - zero);
    }
  }
}

}  // namespace nibble
