#include "model/block_gradient.h"

#include <algorithm>
#include <cmath>

#include "kernels/gemm.h"
#include "model/attention_gradient.h"
#include "model/layer_rows.h"
#include "model/rope.h"

namespace nibble {
namespace {

// [rows, cols]; grows only.
class Buffer {
 public:
  MatrixView<float> resize(size_t rows, size_t cols) {
    if (values_.size() < rows * cols) values_.resize(rows * cols);
    rows_ = rows, cols_ = cols;
    return view();
  }
  MatrixView<float> view() { return matrix(values_.data(), rows_, cols_); }

 private:
  std::vector<float> values_;
  size_t rows_ = 0, cols_ = 0;
};

void copy_rows(MatrixView<const float> from, MatrixView<float> to) {
  for (size_t r = 0; r < from.rows; ++r) std::copy_n(from.row(r), from.cols, to.row(r));
}

MatrixView<float> transpose(MatrixView<const float> x, Buffer& out) {
  constexpr size_t kColumns = 16;
  const MatrixView<float> result = out.resize(x.cols, x.rows);
  parallel_for(x.cols, kColumns, [&](size_t begin, size_t end) {
    kernels::active().transpose(x.data + begin, x.stride, x.rows, end - begin, result.row(begin), result.stride);
  });
  return result;
}

// y = x w^T + bias.
void times_transposed(MatrixView<const float> x, MatrixView<const float> w, const std::vector<float>& bias,
                      MatrixView<float> y) {
  const auto load = [](const void* self, size_t row, size_t begin, size_t count, float* out) noexcept {
    std::copy_n(static_cast<const MatrixView<const float>*>(self)->row(row) + begin, count, out);
  };
  kernels::gemm(x, {&w, load}, bias.empty() ? nullptr : bias.data(), y);
}

// From the gradient d of y_i = x_i w_i r, r = (mean x^2 + eps)^(-1/2), that of x:
//   dx_i = r w_i d_i - x_i r^3 mean_j(d_j w_j x_j). In place is allowed.
void norm_backward(const float* x, const std::vector<float>& w, float eps, const float* d, float* dx) {
  const size_t n = w.size();
  double squares = 0, dot = 0;
  for (size_t i = 0; i < n; ++i) {
    squares += double{x[i]} * double{x[i]};
    dot += double{d[i]} * double{w[i]} * double{x[i]};
  }
  const double r = 1 / std::sqrt(squares / static_cast<double>(n) + double{eps});
  const auto of_d = static_cast<float>(r), of_x = static_cast<float>(r * r * r * dot / static_cast<double>(n));
  for (size_t i = 0; i < n; ++i) dx[i] = of_d * w[i] * d[i] - of_x * x[i];
}

class DecoderBlockGradient final : public BlockGradient {
 public:
  DecoderBlockGradient(const ModelConfig& config, const DecoderLayer& layer, size_t window)
      : config_(config),
        layer_(layer),
        attention_{config.heads, config.kv_heads, config.head_dim, window, config.attention_scale} {}

  void run(const Weights& weights, MatrixView<const float> hidden, MatrixView<float> out) override {
    const size_t tokens = hidden.rows, inner = config_.intermediate_size;
    norm_rows(hidden, layer_.attention_norm, config_.norm_eps, first_.resize(tokens, hidden.cols));
    times_transposed(first_.view(), weights[0][0], layer_.query.bias, query_.resize(tokens, config_.query_size()));
    times_transposed(first_.view(), weights[0][1], layer_.key.bias, key_.resize(tokens, config_.kv_size()));
    times_transposed(first_.view(), weights[0][2], layer_.value.bias, value_.resize(tokens, config_.kv_size()));
    if (!layer_.query_norm.empty()) copy_rows(query_.view(), plain_query_.resize(tokens, config_.query_size()));
    if (!layer_.key_norm.empty()) copy_rows(key_.view(), plain_key_.resize(tokens, config_.kv_size()));
    make_angles(tokens);
    place_heads(config_, layer_, cosines_.data(), sines_.data(), query_.view(), key_.view(), value_.view(),
                [](size_t, size_t, const float*, const float*) {});
    attend_document(attention_, query_.view(), key_.view(), value_.view(),
                    attended_.resize(tokens, config_.query_size()));
    const MatrixView<float> middle = middle_.resize(tokens, hidden.cols);
    times_transposed(attended_.view(), weights[1][0], layer_.attention_output.bias, middle);
    add_rows(hidden, middle);
    norm_rows(middle, layer_.mlp_norm, config_.norm_eps, second_.resize(tokens, hidden.cols));
    times_transposed(second_.view(), weights[2][0], layer_.gate.bias, gate_.resize(tokens, inner));
    times_transposed(second_.view(), weights[2][1], layer_.up.bias, up_.resize(tokens, inner));
    copy_rows(gate_.view(), gated_.resize(tokens, inner));
    gate_rows(up_.view(), gated_.view());
    times_transposed(gated_.view(), weights[3][0], layer_.down.bias, out);
    add_rows(middle, out);
  }

  void backward(const Weights& weights, MatrixView<const float> d_out, const Sink& sink) override {
    const size_t tokens = d_out.rows;
    give(sink, 3, 0, d_out, gated_.view());
    inputs_gradient(d_out, weights[3][0], d_gate_.resize(tokens, config_.intermediate_size));
    gate_backward(d_up_.resize(tokens, config_.intermediate_size));
    give(sink, 2, 0, d_gate_.view(), second_.view());
    give(sink, 2, 1, d_up_.view(), second_.view());
    const MatrixView<float> d_middle = d_middle_.resize(tokens, d_out.cols);
    inputs_gradient(d_gate_.view(), weights[2][0], d_middle);
    inputs_gradient(d_up_.view(), weights[2][1], d_second_.resize(tokens, d_out.cols));
    add_rows(d_second_.view(), d_middle);
    parallel_for(tokens, kRowGrain, [&](size_t begin, size_t end) {
      for (size_t t = begin; t < end; ++t)
        norm_backward(middle_.view().row(t), layer_.mlp_norm, config_.norm_eps, d_middle.row(t), d_middle.row(t));
    });
    add_rows(d_out, d_middle);
    give(sink, 1, 0, d_middle, attended_.view());
    inputs_gradient(d_middle, weights[1][0], d_attended_.resize(tokens, config_.query_size()));
    attend_document_backward(attention_, query_.view(), key_.view(), value_.view(), d_attended_.view(),
                             d_query_.resize(tokens, config_.query_size()), d_key_.resize(tokens, config_.kv_size()),
                             d_value_.resize(tokens, config_.kv_size()));
    place_backward(d_query_.view(), plain_query_.view(), layer_.query_norm);
    place_backward(d_key_.view(), plain_key_.view(), layer_.key_norm);
    give(sink, 0, 0, d_query_.view(), first_.view());
    give(sink, 0, 1, d_key_.view(), first_.view());
    give(sink, 0, 2, d_value_.view(), first_.view());
  }

 private:
  void make_angles(size_t tokens) {
    const size_t count = tokens * config_.rope.dims / 2;
    if (cosines_.size() >= count) return;
    std::vector<float> frequencies;
    for (const double frequency : rope_frequencies(config_.rope)) frequencies.push_back(static_cast<float>(frequency));
    cosines_.resize(count);
    sines_.resize(count);
    rope_table(frequencies, static_cast<float>(config_.rope.attention_factor), 0, tokens, cosines_.data(),
               sines_.data());
    back_sines_.clear();
    for (const float sine : sines_) back_sines_.push_back(-sine);
  }

  // dW = d^T x of y = x W^T.
  void give(const Sink& sink, size_t stage, size_t linear, MatrixView<const float> d, MatrixView<const float> x) {
    const MatrixView<float> gradient = gradient_.resize(d.cols, x.cols);
    times_transposed(transpose(d, left_), transpose(x, right_), {}, gradient);
    sink(stage, linear, gradient);
  }

  // dx = d W.
  void inputs_gradient(MatrixView<const float> d, MatrixView<const float> weight, MatrixView<float> dx) {
    times_transposed(d, transpose(weight, right_), {}, dx);
  }

  // d_gate_ holds the gradient of silu(gate) * up, and then that of gate; silu(g) = g sigmoid(g).
  void gate_backward(MatrixView<float> d_up) {
    const MatrixView<float> d_gate = d_gate_.view(), gate = gate_.view(), up = up_.view();
    parallel_for(gate.rows, kRowGrain, [&](size_t begin, size_t end) {
      for (size_t t = begin; t < end; ++t)
        for (size_t c = 0; c < gate.cols; ++c) {
          const float g = gate.row(t)[c], d = d_gate.row(t)[c], sigmoid = 1.0f / (1.0f + std::exp(-g));
          d_up.row(t)[c] = d * g * sigmoid;
          d_gate.row(t)[c] = d * up.row(t)[c] * sigmoid * (1.0f + g * (1.0f - sigmoid));
        }
    });
  }

  // The gradient of heads before place_heads(): the transposed rotation, then the norm. plain: the heads before it.
  void place_backward(MatrixView<float> d, MatrixView<const float> plain, const std::vector<float>& norm) {
    const size_t dim = config_.head_dim, half = config_.rope.dims / 2;
    parallel_for(d.rows, kRowGrain, [&](size_t begin, size_t end) {
      for (size_t t = begin; t < end; ++t)
        for (size_t column = 0; column < d.cols; column += dim) {
          float* const head = d.row(t) + column;
          kernels::active().rope(head, half, cosines_.data() + t * half, back_sines_.data() + t * half);
          if (!norm.empty()) norm_backward(plain.row(t) + column, norm, config_.norm_eps, head, head);
        }
    });
  }

  const ModelConfig& config_;
  const DecoderLayer& layer_;
  DocumentAttention attention_;
  std::vector<float> cosines_, sines_, back_sines_;
  // Of the document that was run: the inputs of each stage, and what lies between.
  Buffer first_, query_, key_, value_, plain_query_, plain_key_, attended_, middle_, second_, gate_, up_, gated_;
  Buffer d_gate_, d_up_, d_second_, d_middle_, d_attended_, d_query_, d_key_, d_value_;
  Buffer left_, right_, gradient_;
};

}  // namespace

std::unique_ptr<BlockGradient> make_block_gradient(const ModelConfig& config, const DecoderLayer& layer,
                                                   size_t window) {
  return std::make_unique<DecoderBlockGradient>(config, layer, window);
}

}  // namespace nibble
