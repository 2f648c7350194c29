#include "model/attention_gradient.h"

#include <algorithm>
#include <vector>

#include "core/threads.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

constexpr size_t kTokenGrain = 4;  // tokens of one task

size_t first_seen(const DocumentAttention& shape, size_t t) {
  return shape.window != 0 && t + 1 > shape.window ? t + 1 - shape.window : 0;
}

// What query `q` of token t gives the positions [first, t] of a kv head whose keys begin at column `column`.
void weigh(const DocumentAttention& shape, const float* q, MatrixView<const float> key, size_t column, size_t first,
           size_t t, float* weights) {
  for (size_t p = first; p <= t; ++p)
    weights[p - first] = shape.scale * kernels::active().dot_f32(q, key.row(p) + column, shape.dim);
  kernels::active().softmax(weights, t + 1 - first);
}

void clear(MatrixView<float> x, size_t column, size_t count) {
  for (size_t t = 0; t < x.rows; ++t) std::fill_n(x.row(t) + column, count, 0.0f);
}

}  // namespace

void attend_document(const DocumentAttention& shape, MatrixView<const float> query, MatrixView<const float> key,
                     MatrixView<const float> value, MatrixView<float> out) {
  const size_t dim = shape.dim, shared = shape.heads / shape.kv_heads;
  parallel_for(query.rows, kTokenGrain, [&](size_t begin, size_t end) {
    std::vector<float> weights(end);
    for (size_t t = begin; t < end; ++t) {
      const size_t first = first_seen(shape, t);
      std::fill_n(out.row(t), shape.heads * dim, 0.0f);
      for (size_t h = 0; h < shape.heads; ++h) {
        const size_t column = h / shared * dim;
        weigh(shape, query.row(t) + h * dim, key, column, first, t, weights.data());
        for (size_t p = first; p <= t; ++p)
          kernels::active().axpy_f32(weights[p - first], value.row(p) + column, out.row(t) + h * dim, dim);
      }
    }
  });
}

void attend_document_backward(const DocumentAttention& shape, MatrixView<const float> query,
                              MatrixView<const float> key, MatrixView<const float> value, MatrixView<const float> d_out,
                              MatrixView<float> d_query, MatrixView<float> d_key, MatrixView<float> d_value) {
  const size_t dim = shape.dim, shared = shape.heads / shape.kv_heads;
  const kernels::Table& table = kernels::active();
  parallel_for(shape.kv_heads, 1, [&](size_t begin, size_t end) {
    std::vector<float> weights(query.rows), d_weights(query.rows);
    for (size_t kv = begin; kv < end; ++kv) {
      const size_t column = kv * dim;
      clear(d_key, column, dim);
      clear(d_value, column, dim);
      clear(d_query, column * shared, dim * shared);
      for (size_t h = kv * shared; h < (kv + 1) * shared; ++h)
        for (size_t t = 0; t < query.rows; ++t) {
          const size_t first = first_seen(shape, t), count = t + 1 - first;
          const float* const q = query.row(t) + h * dim;
          const float* const d = d_out.row(t) + h * dim;
          weigh(shape, q, key, column, first, t, weights.data());
          for (size_t i = 0; i < count; ++i) d_weights[i] = table.dot_f32(d, value.row(first + i) + column, dim);
          const float mean = table.dot_f32(weights.data(), d_weights.data(), count);
          for (size_t i = 0; i < count; ++i) {
            const float d_score = shape.scale * weights[i] * (d_weights[i] - mean);
            table.axpy_f32(d_score, key.row(first + i) + column, d_query.row(t) + h * dim, dim);
            table.axpy_f32(d_score, q, d_key.row(first + i) + column, dim);
            table.axpy_f32(weights[i], d, d_value.row(first + i) + column, dim);
          }
        }
    }
  });
}

}  // namespace nibble
