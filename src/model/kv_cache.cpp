#include "model/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "core/checked.h"
#include "core/text.h"
#include "kernels/kernels.h"

namespace nibble {

SlabCache::SlabCache(size_t layers, size_t kv_heads, size_t head_dim, size_t capacity, DType dtype)
    : kv_heads_(kv_heads), head_dim_(head_dim), capacity_(capacity), dtype_(dtype) {
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16)
    throw Error(ErrorKind::kUsage, cat("the cache cannot be ", info(dtype).name, "; choose F32, F16 or BF16"));
  constexpr std::string_view kWhat = "the cache's size";
  const size_t row = checked_mul(head_dim, info(dtype).block_bytes, kWhat);
  const size_t slab = checked_mul(checked_mul(2 * kv_heads, row, kWhat), capacity, kWhat);
  try {
    for (size_t layer = 0; layer < layers; ++layer) slabs_.push_back(std::make_unique_for_overwrite<std::byte[]>(slab));
  } catch (const std::bad_alloc&) {
    throw Error(ErrorKind::kUsage,
                cat("no memory for a cache of ", capacity, " tokens (", format_bytes(checked_mul(slab, layers, kWhat)),
                    "); try fewer tokens or a smaller type"));
  }
}

void SlabCache::truncate(size_t tokens) { size_ = std::min(size_, tokens); }

CacheHead SlabCache::head_at(size_t layer, size_t index) const {
  return {dtype_, head_dim_, slabs_[layer].get() + index * capacity_ * head_dim_ * info(dtype_).block_bytes};
}

void store_row(const CacheHead& head, size_t position, const float* values) {
  std::byte* row = head.row(position);
  if (head.dtype == DType::kF32)
    std::memcpy(row, values, head.head_dim * sizeof(float));
  else if (head.dtype == DType::kF16)
    kernels::active().f32_to_f16(values, reinterpret_cast<uint16_t*>(row), head.head_dim);
  else
    kernels::active().f32_to_bf16(values, reinterpret_cast<uint16_t*>(row), head.head_dim);
}

void load_columns(const CacheHead& head, size_t position, size_t begin, size_t count, float* out) {
  const std::byte* from = head.row(position) + begin * info(head.dtype).block_bytes;
  if (head.dtype == DType::kF32)
    std::memcpy(out, from, count * sizeof(float));
  else if (head.dtype == DType::kF16)
    kernels::active().f16_to_f32(reinterpret_cast<const uint16_t*>(from), out, count);
  else
    kernels::active().bf16_to_f32(reinterpret_cast<const uint16_t*>(from), out, count);
}

}  // namespace nibble
