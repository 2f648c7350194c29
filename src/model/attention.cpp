#include "model/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/checked.h"
#include "core/threads.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

using kernels::kKvPanel;
using kernels::KvFormat;

constexpr size_t kTile = 128;       // positions: scores, keys and values of a tile stay in L2
constexpr size_t kBlockRows = 120;  // query rows (tokens x heads of a group) of one block, about
constexpr size_t kExpandRows = 24;  // from this many rows on, a tile is dequantized once for all of them
// Passes of so few tokens split their positions among threads, because there may be fewer heads than threads.
constexpr size_t kSplitTokens = 8;
constexpr size_t kSplitPositions = 256;
constexpr size_t kSerialWork = size_t{1} << 15;  // multiplications that are done before another thread wakes up
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Of one thread; grows only.
float* scratch(size_t floats) {
  thread_local std::vector<float> buffer;
  if (buffer.size() < floats) buffer.resize(floats);
  return buffer.data();
}

// The softmax so far of the rows of a block: out = sums / total.
struct Sums {
  float* values;  // [rows, width]
  float* top;     // [rows]
  double* total;  // [rows]

  static size_t floats(size_t rows, size_t width) { return round_up(rows * (width + 3) + 1, 16); }
  Sums(float* space, size_t rows, size_t width)
      : values(space), top(space + rows * width), total(reinterpret_cast<double*>(top + round_up(rows, 2))) {}
};

class Attention {
 public:
  Attention(const SlabCache& cache, const AttentionShape& shape, MatrixView<const float> queries, MatrixView<float> out)
      : kernels_(kernels::active()),
        cache_(cache),
        shape_(shape),
        group_(shape.heads / cache.kv_heads()),
        dim_(cache.head_dim()),
        width_(cache.width()),
        queries_(queries),
        out_(out) {}

  void run(AttentionSpace& space) const {
    const size_t tokens = queries_.rows, heads = cache_.kv_heads();
    const size_t block = std::max<size_t>(1, kBlockRows / group_), blocks = ceil_div(tokens, block);
    const size_t first = first_seen(shape_.past) / kSplitPositions, end = shape_.past + tokens;
    const size_t splits = tokens > kSplitTokens ? 1 : ceil_div(end, kSplitPositions) - first;
    const size_t part = Sums::floats(std::min(block, tokens) * group_, width_);
    float* const parts = splits == 1 ? nullptr : space.floats(blocks * heads * splits * part);
    std::atomic<size_t>* const done = splits == 1 ? nullptr : space.counters(blocks * heads);
    const size_t tasks = blocks * heads * splits;
    const size_t work = tokens * shape_.heads * width_ * (end - first_seen(shape_.past));
    parallel_for(tasks, work < kSerialWork ? tasks : 1, [&](size_t task, size_t last) {
      for (; task < last; ++task) {
        // The last tokens see the most: they come first, so that no thread is left with a long task.
        const size_t unit = task / splits, index = blocks - 1 - unit / heads, head = unit % heads;
        const size_t begin = index * block, stop = std::min(tokens, begin + block);
        if (splits == 1) {
          const size_t rows = (stop - begin) * group_;
          Block all(*this, begin, stop, head, nullptr);
          all.add(0, shape_.past + stop);
          finish(begin, rows, head, all.sums());
          continue;
        }
        const size_t from = (first + task % splits) * kSplitPositions;
        Block one(*this, begin, stop, head, parts + task * part);
        one.add(from, std::min(from + kSplitPositions, shape_.past + stop));
        // Whoever is last adds up the parts, always in the same order.
        if (done[unit].fetch_add(1, std::memory_order_acq_rel) + 1 < splits) continue;
        done[unit].store(0, std::memory_order_relaxed);
        merge(begin, (stop - begin) * group_, head, parts + unit * splits * part, splits, part);
      }
    });
  }

 private:
  size_t first_seen(size_t position) const {
    return shape_.window == 0 || position < shape_.window ? 0 : position - shape_.window + 1;
  }

  // Tokens [begin, end) of all the query heads that share one kv head.
  class Block {
   public:
    // `space`: Sums::floats() for the sums, or null for the thread's own scratch.
    Block(const Attention& of, size_t begin, size_t end, size_t head, float* space)
        : of_(of),
          begin_(begin),
          rows_((end - begin) * of.group_),
          head_(head),
          queries_(scratch(2 * rows_ * of.width_ + rows_ * kTile + 2 * of.width_ * kTile + 3 * rows_ + 64)),
          scores_(queries_ + rows_ * of.width_),
          keys_(scores_ + rows_ * kTile),
          values_(keys_ + of.width_ * kTile),
          sums_(space != nullptr ? space : align(values_ + of.width_ * kTile), rows_, of.width_) {
      for (size_t r = 0; r < rows_; ++r) {
        const float* const from = of.queries_.row(begin + r / of.group_) + (head * of.group_ + r % of.group_) * of.dim_;
        float* const to = queries_ + r * of.width_;
        if (of.cache_.rotated()) {
          std::copy_n(from, of.dim_, to);
          rotate_head(to, of.dim_, of.shape_.scale);
        } else {
          for (size_t d = 0; d < of.dim_; ++d) to[d] = from[d] * of.shape_.scale;
        }
        std::fill(to + of.dim_, to + of.width_, 0.0f);
      }
      std::fill_n(sums_.values, rows_ * of.width_, 0.0f);
      std::fill_n(sums_.top, rows_, -kInfinity);
      std::fill_n(sums_.total, rows_, 0.0);
    }

    // Adds what the tokens see of positions [from, to).
    void add(size_t from, size_t to) {
      const size_t first = of_.shape_.past + begin_, last = first + rows_ / of_.group_ - 1;
      CacheRange low[SlabCache::kMaxRanges], high[SlabCache::kMaxRanges];
      const size_t count = of_.cache_.ranges(of_.shape_.layer, first, low);
      of_.cache_.ranges(of_.shape_.layer, last, high);
      for (size_t i = 0; i < count; ++i) {
        const size_t begin = std::max({from, low[i].begin, of_.first_seen(first)}), end = std::min(to, high[i].end);
        for (size_t p = begin; p < end;) {
          const size_t tile = low[i].base + (p - low[i].base) / kKvPanel * kKvPanel;
          const size_t stop = std::min(end, tile + kTile);
          add_tile(i, low[i], tile, p, stop);
          p = stop;
        }
      }
    }

    const Sums& sums() const { return sums_; }

   private:
    static float* align(float* p) { return p + reinterpret_cast<uintptr_t>(p) % 8 / sizeof(float); }

    // Positions [begin, end) of range `index`; `tile`: the first of begin's panel.
    void add_tile(size_t index, const CacheRange& range, size_t tile, size_t begin, size_t end) {
      const auto& kernels = of_.kernels_;
      const size_t width = of_.width_, panels = ceil_div(end - tile, kKvPanel);
      kernels::KvView keys = range.store->keys(head_, tile - range.base);
      kernels::KvView values = range.store->values(head_, begin - range.base);
      if (keys.format != KvFormat::kF32 && rows_ >= kExpandRows) {
        kernels.kv_expand_keys(keys, panels, keys_);
        kernels.kv_expand_values(values, end - begin, values_);
        keys = {KvFormat::kF32, width, keys_, nullptr};
        values = {KvFormat::kF32, width, values_, nullptr};
      }
      kernels.kv_scores(keys, panels, queries_, width, rows_, scores_, kTile);
      for (size_t r = 0; r < rows_; r += of_.group_) weigh_token(index, r, tile, begin, end);
      kernels.kv_weigh(values, end - begin, scores_ + (begin - tile), kTile, rows_, sums_.values, width);
    }

    // The scores of one token's rows to weights; 0 for what it does not see.
    void weigh_token(size_t index, size_t row, size_t tile, size_t begin, size_t end) {
      const size_t position = of_.shape_.past + begin_ + row / of_.group_;
      CacheRange seen[SlabCache::kMaxRanges];
      of_.cache_.ranges(of_.shape_.layer, position, seen);
      const size_t low = std::max({begin, seen[index].begin, of_.first_seen(position)});
      const size_t high = std::max(low, std::min(end, seen[index].end));
      for (size_t r = row; r < row + of_.group_; ++r) {
        float* const line = scores_ + r * kTile;
        if (low >= end || low == high) {
          std::fill(line, line + (end - tile), 0.0f);
          continue;
        }
        std::fill(line, line + (low - tile), 0.0f);
        const float factor = of_.kernels_.softmax_part(line + (low - tile), high - low, sums_.top + r, sums_.total + r);
        std::fill(line + (high - tile), line + (end - tile), 0.0f);
        if (factor == 1.0f) continue;
        float* const sums = sums_.values + r * of_.width_;
        for (size_t d = 0; d < of_.width_; ++d) sums[d] *= factor;
      }
    }

    const Attention& of_;
    size_t begin_, rows_, head_;
    float *queries_, *scores_, *keys_, *values_;
    Sums sums_;
  };

  void merge(size_t begin, size_t rows, size_t head, float* parts, size_t count, size_t stride) const {
    const Sums all(parts, rows, width_);
    for (size_t p = 1; p < count; ++p) {
      const Sums part(parts + p * stride, rows, width_);
      for (size_t r = 0; r < rows; ++r) {
        const float top = std::max(all.top[r], part.top[r]);
        if (top == -kInfinity) continue;
        const float a = std::exp(all.top[r] - top), b = std::exp(part.top[r] - top);
        all.top[r] = top;
        all.total[r] = all.total[r] * double{a} + part.total[r] * double{b};
        for (size_t d = r * width_; d < (r + 1) * width_; ++d) all.values[d] = all.values[d] * a + part.values[d] * b;
      }
    }
    finish(begin, rows, head, all);
  }

  void finish(size_t begin, size_t rows, size_t head, const Sums& sums) const {
    for (size_t r = 0; r < rows; ++r) {
      float* const from = sums.values + r * width_;
      float* const to = out_.row(begin + r / group_) + (head * group_ + r % group_) * dim_;
      const auto inverse = static_cast<float>(1.0 / sums.total[r]);
      if (cache_.rotated()) {
        rotate_head(from, dim_, inverse);
        std::copy_n(from, dim_, to);
      } else {
        for (size_t d = 0; d < dim_; ++d) to[d] = from[d] * inverse;
      }
    }
  }

  const kernels::Table& kernels_;
  const SlabCache& cache_;
  const AttentionShape& shape_;
  size_t group_, dim_, width_;
  MatrixView<const float> queries_;
  MatrixView<float> out_;
};

}  // namespace

float* AttentionSpace::floats(size_t count) {
  if (floats_.size() < count) floats_.resize(count);
  return floats_.data();
}

std::atomic<size_t>* AttentionSpace::counters(size_t count) {
  if (counter_count_ < count) {
    counters_ = std::make_unique<std::atomic<size_t>[]>(count);
    counter_count_ = count;
  }
  return counters_.get();
}

void attend(const SlabCache& cache, const AttentionShape& shape, MatrixView<const float> queries, AttentionSpace& space,
            MatrixView<float> out) {
  Attention(cache, shape, queries, out).run(space);
}

}  // namespace nibble
