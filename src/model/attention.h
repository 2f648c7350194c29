#pragma once
#include <cstddef>

#include "core/tensor.h"
#include "model/kv_cache.h"

namespace nibble {

// Causal grouped-query attention of new tokens over a layer of the cache, in which they already are.
//   queries, out: [tokens, heads * head_dim]; queries are rotated and scaled. Query head h reads kv head h / (heads /
//   kv_heads).
// Token t has position `past` + t and sees positions max(0, past + t - window + 1) .. past + t; window 0 = all.
// Parallel; each head of a token is summed in an order that does not depend on the thread count. Scratch is kept by
// each thread from call to call.
void attend(const SlabCache& cache, size_t layer, size_t past, size_t heads, size_t window,
            MatrixView<const float> queries, MatrixView<float> out);

}  // namespace nibble
