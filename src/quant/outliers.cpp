#include "quant/outliers.h"

#include <algorithm>

#include "core/checked.h"

namespace nibble {

using kernels::active_outliers;

void Outliers::reserve(size_t tokens, size_t cols) {
  cols_ = cols, tokens_ = tokens, blocks_ = ceil_div(cols, kernels::kInt8Block);
  const auto grow = [](auto& storage, size_t count) {
    if (storage.size() < count) storage.resize(count);
  };
  grow(at_, tokens * blocks_);
  grow(values_, tokens * blocks_);
  grow(counts_, tokens);
  grow(index_, cols);
  columns_.reserve(cols);
}

void Outliers::split(size_t t, const float* x, float* rest) {
  const size_t first = t * blocks_;
  counts_[t] = static_cast<uint32_t>(active_outliers().split(x, cols_, rest, &at_[first], &values_[first]));
}

void Outliers::collect() {
  columns_.clear();
  if (tokens_ == 1) {  // all of its own, and in order already
    for (uint32_t k = 0; k < counts_[0]; ++k) {
      columns_.push_back(at_[k]);
      at_[k] = k;
    }
    return;
  }
  constexpr uint32_t kUnused = 0xffffffffu;
  std::fill_n(index_.begin(), cols_, kUnused);
  for (size_t t = 0; t < tokens_; ++t)
    for (size_t k = 0; k < counts_[t]; ++k) index_[at_[t * blocks_ + k]] = 0;
  for (size_t c = 0; c < cols_; ++c) {
    if (index_[c] == kUnused) continue;
    index_[c] = static_cast<uint32_t>(columns_.size());
    columns_.push_back(static_cast<uint32_t>(c));
  }
  for (size_t t = 0; t < tokens_; ++t)
    for (size_t k = 0; k < counts_[t]; ++k) at_[t * blocks_ + k] = index_[at_[t * blocks_ + k]];
}

size_t Outliers::most_columns() const { return std::min(cols_, tokens_ * blocks_); }

void Outliers::load(const kernels::Int8Tile& w, float* out, size_t stride) const noexcept {
  active_outliers().load(w, columns_.data(), columns_.size(), out, stride);
}

void Outliers::add(size_t t, const float* loaded, size_t rows, float* y) const noexcept {
  if (counts_[t] == 0) return;
  active_outliers().add(loaded, rows, &at_[t * blocks_], &values_[t * blocks_], counts_[t], y);
}

}  // namespace nibble
