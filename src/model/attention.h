#pragma once
#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "core/tensor.h"
#include "model/kv_cache.h"

namespace nibble {

// What a model's attention layers share from call to call. Grows only.
class AttentionSpace {
 public:
  // [floats], and `counters` zeros. Attention leaves the counters at zero.
  float* floats(size_t count);
  std::atomic<size_t>* counters(size_t count);

 private:
  std::vector<float> floats_;
  std::unique_ptr<std::atomic<size_t>[]> counters_;
  size_t counter_count_ = 0;
};

struct AttentionShape {
  size_t layer = 0;
  size_t heads = 0;    // of queries, a multiple of the cache's; query head h reads kv head h / (heads / kv_heads)
  size_t past = 0;     // position of the first token
  size_t window = 0;   // a token sees positions max(0, t - window + 1) .. t; 0 = all
  float scale = 1.0f;  // of the queries
};

// Causal grouped-query attention of new tokens over a layer of the cache, in which they already are.
//   queries, out: [tokens, heads * head_dim]; queries have their positions' rotation (RoPE).
// The softmax is computed online (Milakov & Gimelshein 2018; Dao et al. 2022), tile by tile of positions: no memory
// grows with the product of tokens and positions. Parallel, in one region; all sums have an order that does not depend
// on the thread count.
void attend(const SlabCache& cache, const AttentionShape& shape, MatrixView<const float> queries, AttentionSpace& space,
            MatrixView<float> out);

}  // namespace nibble
