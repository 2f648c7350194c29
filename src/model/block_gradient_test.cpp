#include "model/block_gradient.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "core/threads.h"

namespace nibble {
namespace {

using Values = std::vector<double>;

struct Case {
  size_t heads, kv_heads, rope_dims, window;
  bool norms, biases;
};

constexpr size_t kHidden = 12, kInner = 20, kDim = 8, kTokens = 9;
constexpr float kTheta = 100.0f;

// A random block, its weights in the order query, key, value, output, gate, up, down.
struct Sample {
  explicit Sample(const Case& c) : window(c.window) {
    config.hidden_size = kHidden;
    config.intermediate_size = kInner;
    config.heads = c.heads;
    config.kv_heads = c.kv_heads;
    config.head_dim = kDim;
    config.norm_eps = 1e-2f;
    config.attention_scale = 0.7f;
    config.rope.dims = c.rope_dims;
    config.rope.theta = double{kTheta};
    layer.attention_norm = floats(kHidden, 1);
    layer.mlp_norm = floats(kHidden, 1);
    if (c.norms) layer.query_norm = floats(kDim, 1), layer.key_norm = floats(kDim, 1);
    const size_t query = config.query_size(), kv = config.kv_size();
    const std::pair<size_t, size_t> shapes[] = {{query, kHidden}, {kv, kHidden},     {kv, kHidden},
                                                {kHidden, query}, {kInner, kHidden}, {kInner, kHidden},
                                                {kHidden, kInner}};
    Linear* const linears[] = {&layer.query, &layer.key, &layer.value, &layer.attention_output,
                               &layer.gate,  &layer.up,  &layer.down};
    for (size_t i = 0; i < 7; ++i) {
      weights.push_back(floats(shapes[i].first * shapes[i].second, 0));
      if (c.biases) linears[i]->bias = floats(shapes[i].first, 0);
      biases.push_back(linears[i]->bias);
      cols.push_back(shapes[i].second);
    }
    hidden = floats(kTokens * kHidden, 0);
    d_out = floats(kTokens * kHidden, 0);
    views = {{view(0), view(1), view(2)}, {view(3)}, {view(4), view(5)}, {view(6)}};
  }

  std::vector<float> floats(size_t count, float middle) {
    std::vector<float> values(count);
    for (float& value : values) value = middle + static_cast<float>(random.uniform() * 1.6 - 0.8);
    return values;
  }
  MatrixView<const float> view(size_t i) const {
    return matrix<const float>(weights[i].data(), weights[i].size() / cols[i], cols[i]);
  }

  // Everything below in double, from the formulae.
  Values linear(const Values& x, size_t i) const {
    const size_t depth = cols[i], rows = weights[i].size() / depth;
    Values y(kTokens * rows);
    for (size_t t = 0; t < kTokens; ++t)
      for (size_t r = 0; r < rows; ++r) {
        double& sum = y[t * rows + r] = biases[i].empty() ? 0.0 : double{biases[i][r]};
        for (size_t c = 0; c < depth; ++c) {
          const size_t at = r * depth + c;
          sum += x[t * depth + c] * (double{weights[i][at]} + (i == moved_linear && at == moved_element ? move : 0));
        }
      }
    return y;
  }
  void norm(Values& x, size_t n, const std::vector<float>& w) const {
    for (size_t begin = 0; !w.empty() && begin < x.size(); begin += n) {
      double squares = 0;
      for (size_t c = 0; c < n; ++c) squares += x[begin + c] * x[begin + c];
      const double r = 1 / std::sqrt(squares / static_cast<double>(n) + double{config.norm_eps});
      for (size_t c = 0; c < n; ++c) x[begin + c] *= r * double{w[c]};
    }
  }
  void rotate(Values& x, size_t heads) const {
    const size_t half = config.rope.dims / 2;
    for (size_t t = 0; t < kTokens; ++t)
      for (size_t h = 0; h < heads; ++h)
        for (size_t i = 0; i < half; ++i) {
          const double angle =
              static_cast<double>(t) * std::pow(double{kTheta}, -static_cast<double>(i) / static_cast<double>(half));
          double& a = x[(t * heads + h) * kDim + i];
          double& b = x[(t * heads + h) * kDim + i + half];
          const double old = a;
          a = a * std::cos(angle) - b * std::sin(angle);
          b = b * std::cos(angle) + old * std::sin(angle);
        }
  }
  Values attention(const Values& q, const Values& k, const Values& v) const {
    const size_t heads = config.heads, kv_heads = config.kv_heads;
    Values out(q.size());
    for (size_t t = 0; t < kTokens; ++t)
      for (size_t h = 0; h < heads; ++h) {
        const size_t kv = h / (heads / kv_heads);
        double total = 0;
        Values sum(kDim);
        for (size_t p = 0; p <= t; ++p) {
          if (window != 0 && t - p >= window) continue;
          double score = 0;
          for (size_t c = 0; c < kDim; ++c) score += q[(t * heads + h) * kDim + c] * k[(p * kv_heads + kv) * kDim + c];
          const double weight = std::exp(score * double{config.attention_scale});
          total += weight;
          for (size_t c = 0; c < kDim; ++c) sum[c] += weight * v[(p * kv_heads + kv) * kDim + c];
        }
        for (size_t c = 0; c < kDim; ++c) out[(t * heads + h) * kDim + c] = sum[c] / total;
      }
    return out;
  }
  Values output() const {
    Values x(hidden.begin(), hidden.end()), normed = x;
    norm(normed, kHidden, layer.attention_norm);
    Values q = linear(normed, 0), k = linear(normed, 1);
    norm(q, kDim, layer.query_norm);
    norm(k, kDim, layer.key_norm);
    rotate(q, config.heads);
    rotate(k, config.kv_heads);
    const Values attended = linear(attention(q, k, linear(normed, 2)), 3);
    for (size_t i = 0; i < x.size(); ++i) x[i] += attended[i];
    normed = x;
    norm(normed, kHidden, layer.mlp_norm);
    Values gate = linear(normed, 4);
    const Values up = linear(normed, 5);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
    const Values down = linear(gate, 6);
    for (size_t i = 0; i < x.size(); ++i) x[i] += down[i];
    return x;
  }
  // L = sum of out * d_out with one weight moved.
  double loss(size_t linear, size_t element, double by) {
    moved_linear = linear, moved_element = element, move = by;
    const Values out = output();
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * double{d_out[i]};
    move = 0;
    return sum;
  }

  Random random{11};
  ModelConfig config;
  DecoderLayer layer;
  size_t window;
  std::vector<std::vector<float>> weights, biases;
  std::vector<size_t> cols;
  std::vector<float> hidden, d_out;
  BlockGradient::Weights views;
  size_t moved_linear = 0, moved_element = 0;
  double move = 0;
};

struct Result {
  std::vector<float> out;
  std::vector<std::vector<float>> gradients;  // in the order of Sample::weights
};

Result run(const Sample& sample) {
  Result result{std::vector<float>(sample.hidden.size()), {{}, {}, {}, {}, {}, {}, {}}};
  const auto gradient = make_block_gradient(sample.config, sample.layer, sample.window);
  const auto hidden = matrix<const float>(sample.hidden.data(), kTokens, kHidden);
  // A shorter document first: nothing of it may be left.
  gradient->run(sample.views, {hidden.data + kHidden, kTokens - 3, kHidden, kHidden},
                matrix(result.out.data(), kTokens - 3, kHidden));
  gradient->run(sample.views, hidden, matrix(result.out.data(), kTokens, kHidden));
  constexpr size_t kFirst[] = {0, 3, 4, 6};
  gradient->backward(sample.views, matrix<const float>(sample.d_out.data(), kTokens, kHidden),
                     [&](size_t stage, size_t linear, MatrixView<const float> g) {
                       auto& values = result.gradients[kFirst[stage] + linear];
                       EXPECT_TRUE(values.empty());
                       for (size_t r = 0; r < g.rows; ++r) values.insert(values.end(), g.row(r), g.row(r) + g.cols);
                     });
  return result;
}

constexpr Case kCases[] = {
    {4, 2, 8, 0, true, true},
    {4, 1, 6, 4, false, true},
    {2, 2, 8, 1, true, false},
    {6, 3, 8, 0, false, false},
};

TEST(BlockGradient, AgreesWithFiniteDifferences) {
  for (const Case& c : kCases) {
    Sample sample(c);
    const Result got = run(sample);
    const Values want = sample.output();
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(double{got.out[i]}, want[i], 2e-5) << "output " << i;
    for (size_t linear = 0; linear < 7; ++linear) {
      ASSERT_EQ(got.gradients[linear].size(), sample.weights[linear].size());
      Values differences(sample.weights[linear].size());
      double largest = 0;
      constexpr double kStep = 1e-4;
      for (size_t i = 0; i < differences.size(); i += 5) {
        differences[i] = (sample.loss(linear, i, kStep) - sample.loss(linear, i, -kStep)) / (2 * kStep);
        largest = std::max(largest, std::abs(differences[i]));
      }
      if (c.window != 1 || linear > 1) {  // who sees itself alone has no use for queries and keys
        EXPECT_GT(largest, 0.1) << "linear " << linear;
      }
      for (size_t i = 0; i < differences.size(); i += 5)
        ASSERT_NEAR(double{got.gradients[linear][i]}, differences[i], 1e-4 * largest + 1e-6)
            << "heads " << c.heads << " linear " << linear << " element " << i;
    }
  }
}

TEST(BlockGradient, DoesNotDependOnThreads) {
  const Sample sample(kCases[0]);
  set_thread_count(1);
  const Result one = run(sample);
  set_thread_count(3);
  const Result three = run(sample);
  set_thread_count(0);
  EXPECT_EQ(one.out, three.out);
  EXPECT_EQ(one.gradients, three.gradients);
}

}  // namespace
}  // namespace nibble
