#include "model/kv_cache.h"

#include <algorithm>
#include <cmath>

#include "core/checked.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

using kernels::kKvPanel;
using kernels::KvFormat;

// Rows of `recent` when tokens come one by one: what is kept when it is full (up to 32 + 15) and room for more.
constexpr size_t kRecentRows = 128;

KvFormat format_of(CacheType type) {
  static constexpr KvFormat kFormats[] = {KvFormat::kF32, KvFormat::kF16, KvFormat::kBF16, KvFormat::kQ8,
                                          KvFormat::kQ4};
  return kFormats[static_cast<size_t>(type)];
}

size_t stored_width(size_t head_dim, CacheType type) {
  const bool quantized = type == CacheType::kQ8 || type == CacheType::kQ4;
  return round_up(head_dim, quantized ? kernels::kKvBlock : kKvPanel);
}

// Of one thread; grows only.
float* scratch(size_t floats) {
  thread_local std::vector<float> buffer;
  if (buffer.size() < floats) buffer.resize(floats);
  return buffer.data();
}

}  // namespace

SlabCache::SlabCache(size_t layers, size_t kv_heads, size_t head_dim, size_t capacity, CacheType type)
    : kv_heads_(kv_heads),
      head_dim_(head_dim),
      width_(stored_width(head_dim, type)),
      capacity_(capacity),
      type_(type),
      layers_(layers) {
  const KvFormat format = format_of(type);
  for (Layer& layer : layers_) {
    layer.all = KvStore(format, kv_heads, width_, capacity);
    if (type != CacheType::kQ4) continue;
    layer.first = KvStore(KvFormat::kF16, kv_heads, width_, kFirstExact);
    layer.recent = KvStore(KvFormat::kF16, kv_heads, width_, std::min(kRecentRows, round_up(capacity, kKvPanel)));
  }
}

void SlabCache::truncate(size_t tokens) {
  size_ = std::min(size_, tokens);
  if (size_ >= exact_from_) return;
  exact_from_ = size_;
  recent_base_ = size_ / kKvPanel * kKvPanel;
}

void SlabCache::begin_pass(size_t count) {
  if (type_ != CacheType::kQ4 || layers_.empty()) return;
  if (size_ + count - recent_base_ <= layers_[0].recent.capacity()) return;
  const size_t keep = std::min(kLastExact, size_ - recent_base_);
  const size_t base = (size_ - keep) / kKvPanel * kKvPanel, kept = size_ - base;
  std::vector<KvStore> larger;  // of all layers before the first changes: where memory ends, the cache is as it was
  while (kept + count > layers_[0].recent.capacity() && larger.size() < layers_.size())
    larger.emplace_back(KvFormat::kF16, kv_heads_, width_, kept + count);
  for (size_t i = 0; i < layers_.size(); ++i) {
    KvStore& recent = layers_[i].recent;
    (larger.empty() ? recent : larger[i]).take(recent, base - recent_base_, kept);
    if (!larger.empty()) recent = std::move(larger[i]);
  }
  recent_base_ = base;
  exact_from_ = std::max(exact_from_, base);
}

void SlabCache::store(size_t layer, size_t head, size_t position, float* key, float* value) {
  Layer& to = layers_[layer];
  if (rotated()) {
    rotate_head(key, head_dim_);
    rotate_head(value, head_dim_);
  }
  if (width_ != head_dim_) {
    float* const padded = scratch(2 * width_);
    std::fill_n(padded, 2 * width_, 0.0f);
    key = std::copy_n(key, head_dim_, padded) - head_dim_;
    value = std::copy_n(value, head_dim_, padded + width_) - head_dim_;
  }
  to.all.put(head, position, key, value);
  if (type_ != CacheType::kQ4) return;
  to.recent.put(head, position - recent_base_, key, value);
  if (position < kFirstExact) to.first.put(head, position, key, value);
}

size_t SlabCache::ranges(size_t layer, size_t position, CacheRange (&out)[kMaxRanges]) const {
  const Layer& of = layers_[layer];
  const size_t end = position + 1;
  if (type_ != CacheType::kQ4) {
    out[0] = {&of.all, 0, 0, end};
    return 1;
  }
  const size_t recent = std::max({kFirstExact, exact_from_, end > kLastExact ? end - kLastExact : 0});
  const size_t first = std::min(kFirstExact, end), split = std::max(first, std::min(recent, end));
  out[0] = {&of.first, 0, 0, first};
  out[1] = {&of.all, 0, first, split};
  out[2] = {&of.recent, recent_base_, split, end};
  return 3;
}

void rotate_head(float* head, size_t head_dim, float factor) {
  const size_t block = head_dim & (~head_dim + 1);
  const float scale = factor / std::sqrt(static_cast<float>(block));
  for (size_t i = 0; i < head_dim; i += block) kernels::active().hadamard(head + i, block, scale);
}

}  // namespace nibble
