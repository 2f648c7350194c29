#include "model/decoder.h"

#include <algorithm>
#include <cassert>
#include <initializer_list>
#include <set>
#include <utility>

#include "core/interrupt.h"
#include "core/threads.h"
#include "kernels/kernels.h"
#include "model/architecture.h"
#include "model/attention.h"
#include "model/layer_rows.h"
#include "model/product_watch.h"
#include "model/rope.h"

namespace nibble {
namespace {

constexpr size_t kPassTokens = 512;  // tokens that go through the layers together: bounds the activations

using kernels::active;

MatrixView<float> row_of(MatrixView<float> x, size_t t) { return {x.row(t), 1, x.cols, x.stride}; }

// The caches of a pass: one for all its tokens, which follow each other, or one for each.
class PassCaches {
 public:
  explicit PassCaches(std::span<SlabCache* const> caches) : caches_(caches) {}
  bool shared() const { return caches_.size() == 1; }
  SlabCache& of(size_t token) const { return *caches_[shared() ? 0 : token]; }
  size_t position(size_t token) const { return shared() ? caches_[0]->size() + token : caches_[token]->size(); }
  std::span<SlabCache* const> all() const { return caches_; }

 private:
  std::span<SlabCache* const> caches_;
};

// Activations of one pass, each [tokens, ...]. Grows only, so that the token loop allocates nothing.
class Activations {
 public:
  explicit Activations(const ModelConfig& config) : config_(config) {}

  void reserve(size_t tokens) {
    if (tokens <= tokens_) return;
    tokens_ = tokens;
    hidden_.resize(tokens * config_.hidden_size);
    normed_.resize(tokens * config_.hidden_size);
    query_.resize(tokens * config_.query_size());
    attended_.resize(tokens * config_.query_size());
    key_.resize(tokens * config_.kv_size());
    value_.resize(tokens * config_.kv_size());
    gate_.resize(tokens * config_.intermediate_size);
    up_.resize(tokens * config_.intermediate_size);
    cosines.resize(tokens * config_.rope.dims / 2);
    sines.resize(tokens * config_.rope.dims / 2);
  }

  MatrixView<float> hidden(size_t tokens) { return matrix(hidden_.data(), tokens, config_.hidden_size); }
  MatrixView<float> normed(size_t tokens) { return matrix(normed_.data(), tokens, config_.hidden_size); }
  MatrixView<float> query(size_t tokens) { return matrix(query_.data(), tokens, config_.query_size()); }
  MatrixView<float> attended(size_t tokens) { return matrix(attended_.data(), tokens, config_.query_size()); }
  MatrixView<float> key(size_t tokens) { return matrix(key_.data(), tokens, config_.kv_size()); }
  MatrixView<float> value(size_t tokens) { return matrix(value_.data(), tokens, config_.kv_size()); }
  MatrixView<float> gate(size_t tokens) { return matrix(gate_.data(), tokens, config_.intermediate_size); }
  MatrixView<float> up(size_t tokens) { return matrix(up_.data(), tokens, config_.intermediate_size); }

  std::vector<float> cosines, sines;  // [tokens, rope.dims / 2]

 private:
  const ModelConfig& config_;
  size_t tokens_ = 0;
  std::vector<float> hidden_, normed_, query_, attended_, key_, value_, gate_, up_;
};

class Decoder final : public Model {
 public:
  Decoder(ModelConfig config, DecoderWeights weights, std::function<void(size_t)> layer_done)
      : config_(std::move(config)),
        weights_(std::move(weights)),
        layer_done_(std::move(layer_done)),
        activations_(config_) {
    for (const double frequency : rope_frequencies(config_.rope)) frequencies_.push_back(static_cast<float>(frequency));
  }

  const ModelConfig& config() const override { return config_; }
  size_t weight_bytes() const override { return weights_.bytes; }
  size_t token_bytes() const override { return weights_.token_bytes; }

  std::unique_ptr<KvCache> make_cache(size_t capacity, CacheType type) const override {
    return std::make_unique<SlabCache>(config_.layers, config_.kv_heads, config_.head_dim, capacity, type);
  }

  void forward(std::span<const TokenId> tokens, KvCache& kv_cache, MatrixView<float> logits) override {
    SlabCache* const cache = own(kv_cache, tokens.size());
    check(tokens, logits, logits.rows == 1);
    for (size_t begin = 0; begin < tokens.size(); begin += kPassTokens) {
      const size_t count = std::min(kPassTokens, tokens.size() - begin);
      check_interrupted();
      run_layers(tokens.subspan(begin, count), PassCaches({&cache, 1}));
      if (logits.rows == tokens.size())
        project(count, 0, {logits.row(begin), count, logits.cols, logits.stride});
      else if (begin + count == tokens.size())
        project(count, count - 1, logits);
    }
  }

  void forward_batch(std::span<const TokenId> tokens, std::span<KvCache* const> kv_caches,
                     MatrixView<float> logits) override {
    assert(tokens.size() == kv_caches.size());
    check(tokens, logits, false);
    std::vector<SlabCache*> caches;
    for (KvCache* cache : kv_caches) caches.push_back(own(*cache, 1));
    for (size_t begin = 0; begin < tokens.size(); begin += kPassTokens) {
      const size_t count = std::min(kPassTokens, tokens.size() - begin);
      check_interrupted();
      run_layers(tokens.subspan(begin, count), PassCaches(std::span(caches).subspan(begin, count)));
      project(count, 0, {logits.row(begin), count, logits.cols, logits.stride});
    }
  }

  std::vector<ProductCheck> check_products(std::span<const TokenId> tokens, double tolerance) override {
    ProductWatch watch;
    for_each_weight([&](const WeightMatrix& weight, std::string name) { watch.name(weight, std::move(name)); });
    const auto cache = make_cache(tokens.size(), CacheType::kF32);
    std::vector<float> logits(tokens.size() * config_.vocab_size);
    watch_ = &watch;
    struct Unwatch {
      ProductWatch*& watch;
      ~Unwatch() { watch = nullptr; }
    } unwatch{watch_};
    forward(tokens, *cache, matrix(logits.data(), tokens.size(), config_.vocab_size));
    std::vector<ProductCheck> checks;
    std::set<const WeightMatrix*> replaced;
    for (auto& [weight, check] : watch.found()) {
      check.replaced = !(check.error <= tolerance);
      if (check.replaced) replaced.insert(weight);
      checks.push_back(std::move(check));
    }
    for_each_weight([&](WeightMatrix& weight, const std::string&) {
      if (replaced.contains(&weight)) weight.float_products = true;
    });
    return checks;
  }

 private:
  // The cache as this model makes them, with room for `tokens` more.
  SlabCache* own(KvCache& kv_cache, size_t tokens) const {
    auto* cache = dynamic_cast<SlabCache*>(&kv_cache);
    if (!cache || cache->layers() != config_.layers || cache->kv_heads() != config_.kv_heads ||
        cache->head_dim() != config_.head_dim)
      throw Error(ErrorKind::kUsage, "the cache was made by another model");
    if (tokens > cache->capacity() - cache->size())
      throw Error(ErrorKind::kUsage, cat("the context is full: ", cache->size(), " + ", tokens,
                                         " tokens do not fit into ", cache->capacity()));
    return cache;
  }

  void check(std::span<const TokenId> tokens, MatrixView<float> logits, bool last_only) const {
    if (tokens.empty()) throw Error(ErrorKind::kUsage, "there are no tokens to run");
    for (const TokenId id : tokens)
      if (id < 0 || static_cast<size_t>(id) >= config_.vocab_size)
        throw Error(ErrorKind::kUsage, cat("token id ", id, " is outside the vocabulary of ", config_.vocab_size));
    if (logits.cols != config_.vocab_size || (logits.rows != tokens.size() && !last_only))
      throw Error(ErrorKind::kUsage, cat("logits of ", logits.rows, " x ", logits.cols, " were asked for, there are ",
                                         tokens.size(), " x ", config_.vocab_size));
  }

  void run_layers(std::span<const TokenId> tokens, const PassCaches& caches) {
    const size_t count = tokens.size(), each = caches.shared() ? count : 1;
    activations_.reserve(count);
    for (SlabCache* cache : caches.all()) cache->begin_pass(each);
    const auto hidden = activations_.hidden(count), normed = activations_.normed(count);
    parallel_for(count, kRowGrain, [&](size_t begin, size_t end) {
      for (size_t t = begin; t < end; ++t)
        weights_.embedding.load_row(static_cast<size_t>(tokens[t]), 0, config_.hidden_size, hidden.row(t));
    });
    const size_t half = config_.rope.dims / 2;
    for (size_t t = 0; t < count; t += each)
      rope_table(frequencies_, static_cast<float>(config_.rope.attention_factor), caches.position(t), each,
                 activations_.cosines.data() + t * half, activations_.sines.data() + t * half);
    for (size_t i = 0; i < config_.layers; ++i) {
      const DecoderLayer& layer = weights_.layers[i];
      norm_rows(hidden, layer.attention_norm, config_.norm_eps, normed);
      run_attention(layer, i, count, caches);
      add_rows(normed, hidden);
      norm_rows(hidden, layer.mlp_norm, config_.norm_eps, normed);
      run_mlp(layer, count);
      add_rows(normed, hidden);
      if (layer_done_) layer_done_(i);
    }
    for (SlabCache* cache : caches.all()) cache->grow(each);
  }

  // normed -> normed
  void run_attention(const DecoderLayer& layer, size_t index, size_t count, const PassCaches& caches) {
    const auto normed = activations_.normed(count);
    const auto query = activations_.query(count), key = activations_.key(count), value = activations_.value(count);
    run({product(layer.query, query), product(layer.key, key), product(layer.value, value)}, normed);
    place_heads(
        config_, layer, activations_.cosines.data(), activations_.sines.data(), query, key, value,
        [&](size_t t, size_t h, float* k, float* v) { caches.of(t).store(index, h, caches.position(t), k, v); });
    const auto attended = activations_.attended(count);
    AttentionShape shape = {index, config_.heads, caches.position(0), config_.window[index], config_.attention_scale};
    if (caches.shared()) {
      attend(caches.of(0), shape, query, attention_space_, attended);
    } else {
      parallel_for(count, 1, [&](size_t t, size_t) {
        static thread_local AttentionSpace space;
        AttentionShape own_shape = shape;
        own_shape.past = caches.position(t);
        attend(caches.of(t), own_shape, row_of(query, t), space, row_of(attended, t));
      });
    }
    run({product(layer.attention_output, normed)}, attended);
  }

  // normed -> normed
  void run_mlp(const DecoderLayer& layer, size_t count) {
    const auto normed = activations_.normed(count), gate = activations_.gate(count), up = activations_.up(count);
    run({product(layer.gate, gate), product(layer.up, up)}, normed);
    gate_rows(up, gate);
    run({product(layer.down, normed)}, gate);
  }

  // Logits of the pass's tokens from `first` on.
  void project(size_t count, size_t first, MatrixView<float> logits) {
    const auto hidden = activations_.hidden(count), normed = activations_.normed(count);
    const MatrixView<float> rows = {hidden.row(first), count - first, hidden.cols, hidden.stride};
    const MatrixView<float> out = {normed.row(first), count - first, normed.cols, normed.stride};
    norm_rows(rows, weights_.final_norm, config_.norm_eps, out);
    const WeightMatrix& head = weights_.lm_head ? *weights_.lm_head : weights_.embedding;
    run({{&head, weights_.lm_head_bias.empty() ? nullptr : weights_.lm_head_bias.data(), logits}}, out);
    if (layer_done_) layer_done_(config_.layers);
  }

  // `products` of x; initialiser lists, so that the token loop allocates nothing.
  void run(std::initializer_list<Product> products, MatrixView<const float> x) {
    multiply(std::span(products.begin(), products.size()), x);
    if (watch_ != nullptr) watch_->compare(std::span(products.begin(), products.size()), x);
  }

  // Calls body(weight, name) for each weight that is multiplied.
  template <class Body>
  void for_each_weight(const Body& body) {
    const auto named = [&](Slot slot, std::optional<size_t> layer, WeightMatrix& weight) {
      const TensorRule* rule = config_.architecture->find(slot);
      if (rule == nullptr) return;
      std::string name = tensor_name(rule->hf, layer, false);
      body(weight, name.substr(0, name.rfind('.')));
    };
    for (size_t i = 0; i < config_.layers; ++i) {
      DecoderLayer& layer = weights_.layers[i];
      named(Slot::kQuery, i, layer.query.weight);
      named(Slot::kKey, i, layer.key.weight);
      named(Slot::kValue, i, layer.value.weight);
      named(Slot::kAttentionOutput, i, layer.attention_output.weight);
      named(Slot::kGate, i, layer.gate.weight);
      named(Slot::kUp, i, layer.up.weight);
      named(Slot::kDown, i, layer.down.weight);
    }
    if (weights_.lm_head)
      named(Slot::kLmHead, {}, *weights_.lm_head);
    else
      named(Slot::kEmbedding, {}, weights_.embedding);
  }

  ModelConfig config_;
  DecoderWeights weights_;
  std::function<void(size_t)> layer_done_;
  std::vector<float> frequencies_;  // radians per position of each rotated pair
  Activations activations_;
  AttentionSpace attention_space_;
  ProductWatch* watch_ = nullptr;
};

}  // namespace

std::unique_ptr<Model> make_decoder(ModelConfig config, DecoderWeights weights,
                                    std::function<void(size_t)> layer_done) {
  return std::make_unique<Decoder>(std::move(config), std::move(weights), std::move(layer_done));
}

}  // namespace nibble
