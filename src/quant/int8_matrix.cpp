#include "quant/int8_matrix.h"

#include <algorithm>
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

std::shared_ptr<uint8_t> code_memory(size_t count) {
  const auto memory = weight_memory(count);
  return {memory, reinterpret_cast<uint8_t*>(memory.get())};
}

bool all_fit(const std::vector<float>& values, DType dtype) {
  return std::all_of(values.begin(), values.end(), [dtype](float value) {
    return (dtype == DType::kF16 ? f16_to_f32(f32_to_f16(value)) : bf16_to_f32(f32_to_bf16(value))) == value;
  });
}

// The smallest type that holds all of them exactly.
DType type_for(const PackedMatrix& packed) {
  for (const DType dtype : {DType::kF16, DType::kBF16})
    if (all_fit(packed.scales, dtype) && all_fit(packed.mins, dtype)) return dtype;
  return DType::kF32;
}

void store_value(std::vector<uint8_t>& to, DType dtype, size_t i, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(to.data() + 4 * i, &value, 4);
  } else {
    const uint16_t half = dtype == DType::kF16 ? f32_to_f16(value) : f32_to_bf16(value);
    std::memcpy(to.data() + 2 * i, &half, 2);
  }
}

float load_value(const void* from, DType dtype, size_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(from)[i];
  const uint16_t half = static_cast<const uint16_t*>(from)[i];
  return dtype == DType::kF16 ? f16_to_f32(half) : bf16_to_f32(half);
}

size_t size_of(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

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
  const size_t block_bytes = kernels::int8_block_bytes(bits_), values = tiles_ * groups_ * kInt8Rows;
  codes_ = code_memory(checked_mul(tiles_, blocks_ * block_bytes, "packed codes"));
  scales_ = std::make_shared<std::vector<uint8_t>>(values * size_of(scale_dtype_));
  if (!packed.mins.empty()) mins_ = std::make_shared<std::vector<uint8_t>>(values * size_of(scale_dtype_));
  if (!packed.zeros.empty()) zeros_ = std::make_shared<std::vector<uint8_t>>(values);

  parallel_for(tiles_, 8, [&](size_t begin, size_t end) {
    std::vector<uint8_t> codes(kInt8Rows * padded_cols);
    uint8_t steps[kStepsBytes];
    for (size_t i = begin; i < end; ++i) {
      std::fill(codes.begin(), codes.end(), uint8_t{0});
      const size_t first = i * kInt8Rows, count = std::min(kInt8Rows, rows_ - first);
      for (size_t r = 0; r < count; ++r) {
        unpack_codes(packed.codes + (first + r) * packed.row_stride, spec_.bits, 0, cols_,
                     codes.data() + r * padded_cols);
        const size_t from = spec_.per_tensor ? 0 : (first + r) * real_groups;
        for (size_t g = 0; g < real_groups; ++g) {
          const size_t at = (i * groups_ + g) * kInt8Rows + r;
          store_value(*scales_, scale_dtype_, at, packed.scales[from + g]);
          if (mins_) store_value(*mins_, scale_dtype_, at, packed.mins[from + g]);
          if (zeros_) (*zeros_)[at] = packed.zeros[from + g];
        }
      }
      for (size_t b = 0; b < blocks_; ++b) {
        for (size_t r = 0; r < kInt8Rows; ++r)
          for (size_t s = 0; s < kInt8Steps; ++s)
            std::memcpy(steps + s * kInt8Vector + 4 * r, codes.data() + r * padded_cols + b * kInt8Block + 4 * s, 4);
        kernels::pack_int8_block(steps, bits_, codes_.get() + (i * blocks_ + b) * block_bytes);
      }
    }
  });
}

size_t Int8Matrix::bytes() const {
  return tiles_ * blocks_ * kernels::int8_block_bytes(bits_) + scales_->size() + (zeros_ ? zeros_->size() : 0) +
         (mins_ ? mins_->size() : 0);
}

Int8Tile Int8Matrix::tile(size_t index) const {
  const size_t values = index * groups_ * kInt8Rows;
  int zero = 0;
  if (!zeros_ && !mins_) zero = bits_ == kInt8SignOnly ? 1 : spec_.symmetric_zero();
  return {.codes = codes_.get() + index * blocks_ * kernels::int8_block_bytes(bits_),
          .bits = bits_,
          .blocks = blocks_,
          .group = group_,
          .scale_dtype = scale_dtype_,
          .scales = scales_->data() + values * size_of(scale_dtype_),
          .zeros = zeros_ ? zeros_->data() + values : nullptr,
          .zero = zero,
          .mins = mins_ ? mins_->data() + values * size_of(scale_dtype_) : nullptr};
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
      const float scale = load_value(w.scales, scale_dtype_, at);
      const int zero = w.zeros != nullptr ? w.zeros[at] : w.zero, code = codes[c % kInt8Block];
      *out = w.mins != nullptr ? scale * static_cast<float>(code) + load_value(w.mins, scale_dtype_, at)
                               : scale * static_cast<float>(code - zero);
    }
  }
}

}  // namespace nibble
