#pragma once
#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "model/kv_store.h"
#include "model/model.h"

namespace nibble {

// Positions [begin, end) as one store holds them: `base` is the position of the store's row 0.
struct CacheRange {
  const KvStore* store;
  size_t base, begin, end;
};

// Keys and values of every layer. A kQ4 cache quantizes every token when it comes, and keeps the first 4 and the most
// recent ones in f16 besides: what a token sees of the others (see ranges()) does not depend on how many tokens run in
// one pass.
class SlabCache final : public KvCache {
 public:
  static constexpr size_t kFirstExact = 4;  // tokens of a kQ4 cache that stay in f16 for ever
  static constexpr size_t kLastExact = 32;  // and those that a token sees in f16, itself included

  // Throws Error(kUsage) for more than the machine can hold.
  SlabCache(size_t layers, size_t kv_heads, size_t head_dim, size_t capacity, CacheType type);

  size_t size() const override { return size_; }
  size_t capacity() const override { return capacity_; }
  // A kQ4 cache forgets the f16 form of a token some time after it is no longer among the last 32. Where `tokens` lies
  // that far back, those before it are seen in 4 bits although they are among the last 32 again.
  void truncate(size_t tokens) override;

  // Room for `count` tokens after the held ones; call before a pass stores its first. Throws Error(kUsage) where there
  // is no memory; then the cache is as it was.
  void begin_pass(size_t count);
  // Writes the row of one head at `position`, size() or later. key, value: [head_dim], and are changed (rotated).
  // Different positions and heads may be written at the same time.
  void store(size_t layer, size_t head, size_t position, float* key, float* value);
  // Counts `tokens` more as held; their rows have been written in all layers.
  void grow(size_t tokens) { size_ += tokens; }

  // How the token at `position` sees itself and those before it: ranges that are disjoint and cover [0, position], some
  // of them empty; always as many, and range i of all tokens of a pass has the same store and base.
  static constexpr size_t kMaxRanges = 3;
  size_t ranges(size_t layer, size_t position, CacheRange (&out)[kMaxRanges]) const;

  size_t layers() const { return layers_.size(); }
  size_t kv_heads() const { return kv_heads_; }
  size_t head_dim() const { return head_dim_; }
  size_t width() const { return width_; }  // columns of a stored row: head_dim and zeros
  // Keys and values are stored rotated by rotate_head(): queries must be too, and sums of values are rotated back by
  // it.
  bool rotated() const { return type_ == CacheType::kQ4 || type_ == CacheType::kQ8; }

 private:
  struct Layer {
    KvStore all;            // every position, in the cache's type
    KvStore first, recent;  // kQ4: f16 forms of [0, 4) and of [recent_base_, size_)
  };

  size_t kv_heads_, head_dim_, width_, capacity_;
  CacheType type_;
  size_t size_ = 0;
  size_t recent_base_ = 0;  // position of row 0 of every `recent`, a multiple of 16
  size_t exact_from_ = 0;   // first position that `recent` holds
  std::vector<Layer> layers_;
};

// Multiplies each block of a head by an orthonormal Hadamard matrix, whose order is the largest power of two that
// divides head_dim. Its own inverse. `factor` multiplies the result.
void rotate_head(float* head, size_t head_dim, float factor = 1.0f);

}  // namespace nibble
