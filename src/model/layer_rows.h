#pragma once
#include <vector>

#include "core/threads.h"
#include "kernels/kernels.h"
#include "model/decoder.h"

// What a block does token by token between its products: shared by the decoder and by calibration. Parallel over
// tokens; in place where in and out may be the same.
namespace nibble {

inline constexpr size_t kRowGrain = 8;  // tokens of one task

// out[t] = norm(x[t]); in place is allowed.
inline void norm_rows(MatrixView<const float> x, const std::vector<float>& weight, float eps, MatrixView<float> out) {
  parallel_for(x.rows, kRowGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) kernels::active().rms_norm(x.row(t), weight.data(), eps, out.row(t), x.cols);
  });
}

// sum[t] += x[t].
inline void add_rows(MatrixView<const float> x, MatrixView<float> sum) {
  parallel_for(x.rows, kRowGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) kernels::active().axpy_f32(1.0f, x.row(t), sum.row(t), x.cols);
  });
}

// gate[t] = swiglu(gate[t], up[t]).
inline void gate_rows(MatrixView<const float> up, MatrixView<float> gate) {
  parallel_for(gate.rows, kRowGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) kernels::active().swiglu(gate.row(t), up.row(t), gate.row(t), gate.cols);
  });
}

inline Product product(const Linear& linear, MatrixView<float> y) {
  return {&linear.weight, linear.bias.empty() ? nullptr : linear.bias.data(), y};
}

// Norms (where the family has them) and rotates the heads of query and key, each [tokens, heads * head_dim], and hands
// those of key and value on: store(token, kv head, key, value). cosines, sines: [tokens, rope.dims / 2].
template <class Store>
void place_heads(const ModelConfig& config, const DecoderLayer& layer, const float* cosines, const float* sines,
                 MatrixView<float> query, MatrixView<float> key, MatrixView<float> value, const Store& store) {
  const size_t dim = config.head_dim, half = config.rope.dims / 2;
  parallel_for(query.rows, kRowGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      const auto place = [&](float* head, const std::vector<float>& norm) {
        if (!norm.empty()) kernels::active().rms_norm(head, norm.data(), config.norm_eps, head, dim);
        kernels::active().rope(head, half, cosines + t * half, sines + t * half);
      };
      for (size_t h = 0; h < config.heads; ++h) place(query.row(t) + h * dim, layer.query_norm);
      for (size_t h = 0; h < config.kv_heads; ++h) {
        place(key.row(t) + h * dim, layer.key_norm);
        store(t, h, key.row(t) + h * dim, value.row(t) + h * dim);
      }
    }
  });
}

}  // namespace nibble
