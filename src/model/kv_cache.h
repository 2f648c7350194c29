#pragma once
#include <cstddef>
#include <memory>

#include "model/model.h"

namespace nibble {

// The rows of one head: [capacity, head_dim] of `dtype`, dense.
struct CacheHead {
  DType dtype = DType::kF32;
  size_t head_dim = 0;
  std::byte* data = nullptr;

  std::byte* row(size_t position) const { return data + position * head_dim * info(dtype).block_bytes; }
};

// One slab for each layer: keys of head 0, of head 1, ..., then values likewise, so that what attention reads of a head
// is contiguous. Pages are touched only as tokens come.
class SlabCache final : public KvCache {
 public:
  // Throws Error(kUsage) for other types than F32, F16, BF16 and for more than the machine can hold.
  SlabCache(size_t layers, size_t kv_heads, size_t head_dim, size_t capacity, DType dtype);

  size_t size() const override { return size_; }
  size_t capacity() const override { return capacity_; }
  void truncate(size_t tokens) override;
  // Counts `tokens` more as held; their rows have been written. size() + tokens <= capacity().
  void grow(size_t tokens) { size_ += tokens; }

  size_t layers() const { return slabs_.size(); }
  size_t kv_heads() const { return kv_heads_; }
  size_t head_dim() const { return head_dim_; }
  CacheHead keys(size_t layer, size_t head) const { return head_at(layer, head); }
  CacheHead values(size_t layer, size_t head) const { return head_at(layer, kv_heads_ + head); }

 private:
  CacheHead head_at(size_t layer, size_t index) const;

  size_t kv_heads_;
  size_t head_dim_;
  size_t capacity_;
  DType dtype_;
  size_t size_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> slabs_;
};

// Writes `values` ([head_dim]) as row `position`, rounded to the cache's type.
void store_row(const CacheHead& head, size_t position, const float* values);
// Columns [begin, begin + count) of row `position` as float.
void load_columns(const CacheHead& head, size_t position, size_t begin, size_t count, float* out);

}  // namespace nibble
