#pragma once
#include <cstddef>

#include "core/tensor.h"

// Causal grouped-query attention of one document over itself, forwards and backwards, for training.
namespace nibble {

struct DocumentAttention {
  size_t heads = 0, kv_heads = 0, dim = 0;
  size_t window = 0;   // a token sees itself and window - 1 before it; 0 = all
  float scale = 1.0f;  // of the scores
};

// out[t] = sum_p softmax_p(scale q_t . k_p) v_p for each head. query, out: [tokens, heads * dim]; key, value:
// [tokens, kv_heads * dim], rotated. Parallel over tokens.
void attend_document(const DocumentAttention& shape, MatrixView<const float> query, MatrixView<const float> key,
                     MatrixView<const float> value, MatrixView<float> out);

// The gradients of query, key and value (overwritten) from that of `out`. With a the softmax's row of a token:
//   da_p = dout . v_p,  ds_p = a_p (da_p - sum_i a_i da_i),
//   dq = scale sum_p ds_p k_p,  dk_p += scale ds_p q,  dv_p += a_p dout.
// a is computed again. Parallel over the kv heads.
void attend_document_backward(const DocumentAttention& shape, MatrixView<const float> query,
                              MatrixView<const float> key, MatrixView<const float> value, MatrixView<const float> d_out,
                              MatrixView<float> d_query, MatrixView<float> d_key, MatrixView<float> d_value);

}  // namespace nibble
