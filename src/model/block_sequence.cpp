#include "model/block_sequence.h"

#include <algorithm>
#include <numeric>

#include "model/architecture.h"
#include "model/attention.h"
#include "model/block_gradient.h"
#include "model/decoder.h"
#include "model/layer_rows.h"
#include "model/rope.h"

namespace nibble {
namespace {

// [tokens, cols] of one document. Grows only.
class Buffer {
 public:
  MatrixView<float> rows(size_t tokens, size_t cols) {
    if (values_.size() < tokens * cols) values_.resize(tokens * cols);
    return matrix(values_.data(), tokens, cols);
  }

 private:
  std::vector<float> values_;
};

// What blocks share: a document's activations between two stages and its keys and values.
struct Workspace {
  explicit Workspace(const ModelConfig& config) {
    for (const double frequency : rope_frequencies(config.rope)) frequencies.push_back(static_cast<float>(frequency));
  }

  Buffer query, key, value, gate, up, sum;
  std::vector<float> frequencies, cosines, sines;
  std::unique_ptr<SlabCache> cache;  // of one layer
  AttentionSpace attention;
};

std::string tensor_of(const ModelConfig& config, Slot slot, std::optional<size_t> layer, bool bias = false) {
  const TensorRule* rule = config.architecture->find(slot);
  return rule ? tensor_name(rule->hf, layer, bias) : "";
}

std::vector<uint32_t> one_to_one(size_t count) {
  std::vector<uint32_t> indices(count);
  std::iota(indices.begin(), indices.end(), 0U);
  return indices;
}

class DecoderBlock final : public Block {
 public:
  DecoderBlock(const ModelConfig& config, const Source& source, const LoadOptions& options, size_t index,
               Workspace& space)
      : config_(config),
        source_(source),
        index_(index),
        space_(space),
        layer_(load_layer(config, source, options, index)) {
    linears_ = {{&layer_.query, &layer_.key, &layer_.value},
                {&layer_.attention_output},
                {&layer_.gate, &layer_.up},
                {&layer_.down}};
    add_stage({Slot::kQuery, Slot::kKey, Slot::kValue}, norm_fold(Slot::kAttentionNorm));
    add_stage({Slot::kAttentionOutput}, value_fold());
    add_stage({Slot::kGate, Slot::kUp}, norm_fold(Slot::kMlpNorm));
    add_stage({Slot::kDown}, linear_fold(Slot::kUp, layer_.up, one_to_one(config.intermediate_size)));
  }

  const std::vector<BlockStage>& stages() const override { return stages_; }

  void begin(MatrixView<const float> hidden, MatrixView<float> x) override {
    norm_rows(hidden, layer_.attention_norm, config_.norm_eps, x);
  }

  void advance(size_t stage, MatrixView<const float> x, MatrixView<float> hidden, MatrixView<float> next) override {
    switch (stage) {
      case 0:
        return attend_to(x, next);
      case 1:
        add_output(layer_.attention_output, x, hidden);
        return norm_rows(hidden, layer_.mlp_norm, config_.norm_eps, next);
      case 2:
        return run_gate(x, next);
      default:
        return add_output(layer_.down, x, hidden);
    }
  }

  void watch_cache(CacheSink sink) override { cache_sink_ = std::move(sink); }

  void replace(size_t stage, size_t linear, WeightMatrix weight) override {
    linears_[stage][linear]->weight = std::move(weight);
  }

  std::span<float> vector(const std::string& tensor) override {
    const std::pair<Slot, std::vector<float>*> known[] = {{Slot::kAttentionNorm, &layer_.attention_norm},
                                                          {Slot::kMlpNorm, &layer_.mlp_norm}};
    for (const auto& [slot, values] : known)
      if (tensor == name(slot)) return *values;
    const std::pair<Slot, Linear*> biased[] = {{Slot::kValue, &layer_.value}, {Slot::kUp, &layer_.up}};
    for (const auto& [slot, linear] : biased)
      if (tensor == name(slot, true)) return linear->bias;
    throw Error(ErrorKind::kUsage, cat("block ", index_, " has no vector ", tensor));
  }

  std::unique_ptr<BlockGradient> gradient() override {
    return make_block_gradient(config_, layer_, config_.window[index_]);
  }

  void release() const noexcept override {
    for (const BlockStage& stage : stages_)
      for (const std::string& linear : stage.linears)
        if (const StoredTensor* tensor = source_.find(linear)) tensor->release(0, tensor->rows());
  }

 private:
  std::string name(Slot slot, bool bias = false) const { return tensor_of(config_, slot, index_, bias); }

  void add_stage(std::initializer_list<Slot> slots, FoldTarget fold) {
    BlockStage& stage = stages_.emplace_back();
    for (const Slot slot : slots) stage.linears.push_back(name(slot));
    stage.cols = linears_[stages_.size() - 1].front()->weight.cols();
    stage.fold = std::move(fold);
    stage.residual = stages_.size() % 2 == 0;  // attention's and the MLP's last linear
  }

  FoldTarget norm_fold(Slot norm) const { return {name(norm), "", false, one_to_one(config_.hidden_size)}; }

  FoldTarget linear_fold(Slot slot, const Linear& linear, std::vector<uint32_t> producer) const {
    return {name(slot), linear.bias.empty() ? "" : name(slot, true), true, std::move(producer)};
  }

  FoldTarget value_fold() const {
    std::vector<uint32_t> producer;
    const size_t shared = config_.heads / config_.kv_heads;
    for (size_t h = 0; h < config_.heads; ++h)
      for (size_t d = 0; d < config_.head_dim; ++d)
        producer.push_back(static_cast<uint32_t>(h / shared * config_.head_dim + d));
    return linear_fold(Slot::kValue, layer_.value, std::move(producer));
  }

  void attend_to(MatrixView<const float> x, MatrixView<float> attended) {
    const size_t count = x.rows;
    const auto query = space_.query.rows(count, config_.query_size());
    const auto key = space_.key.rows(count, config_.kv_size()), value = space_.value.rows(count, config_.kv_size());
    const Product products[] = {product(layer_.query, query), product(layer_.key, key), product(layer_.value, value)};
    multiply(products, x);
    SlabCache& cache = fresh_cache(count);
    place_heads(config_, layer_, space_.cosines.data(), space_.sines.data(), query, key, value,
                [&](size_t t, size_t h, float* k, float* v) { cache.store(0, h, t, k, v); });
    if (cache_sink_) cache_sink_(key, value);  // an f32 cache leaves the rows as they are
    attend(cache, {0, config_.heads, 0, config_.window[index_], config_.attention_scale}, query, space_.attention,
           attended);
  }

  SlabCache& fresh_cache(size_t tokens) {
    if (!space_.cache || space_.cache->capacity() < tokens) {
      space_.cache = std::make_unique<SlabCache>(1, config_.kv_heads, config_.head_dim, tokens, CacheType::kF32);
      const size_t half = config_.rope.dims / 2;
      space_.cosines.resize(tokens * half);
      space_.sines.resize(tokens * half);
      rope_table(space_.frequencies, static_cast<float>(config_.rope.attention_factor), 0, tokens,
                 space_.cosines.data(), space_.sines.data());
    }
    space_.cache->begin_pass(tokens);
    return *space_.cache;
  }

  void run_gate(MatrixView<const float> x, MatrixView<float> out) {
    const auto up = space_.up.rows(x.rows, config_.intermediate_size);
    const Product products[] = {product(layer_.gate, out), product(layer_.up, up)};
    multiply(products, x);
    gate_rows(up, out);
  }

  void add_output(const Linear& linear, MatrixView<const float> x, MatrixView<float> hidden) {
    const auto sum = space_.sum.rows(x.rows, hidden.cols);
    multiply(linear.weight, x, linear.bias.empty() ? nullptr : linear.bias.data(), sum);
    add_rows(sum, hidden);
  }

  const ModelConfig& config_;
  const Source& source_;
  size_t index_;
  Workspace& space_;
  DecoderLayer layer_;
  std::vector<std::vector<Linear*>> linears_;  // by stage
  std::vector<BlockStage> stages_;
  CacheSink cache_sink_;
};

// The last norm and an lm_head of its own.
class HeadBlock final : public Block {
 public:
  HeadBlock(const ModelConfig& config, const Source& source)
      : config_(config), source_(source), norm_(load_final_norm(config, source)) {
    stages_.push_back({{tensor_of(config, Slot::kLmHead, {})},
                       config.hidden_size,
                       {tensor_of(config, Slot::kFinalNorm, {}), "", false, one_to_one(config.hidden_size)}});
  }

  const std::vector<BlockStage>& stages() const override { return stages_; }
  void begin(MatrixView<const float> hidden, MatrixView<float> x) override {
    norm_rows(hidden, norm_, config_.norm_eps, x);
  }
  void advance(size_t, MatrixView<const float>, MatrixView<float>, MatrixView<float>) override {}  // nobody looks
  void replace(size_t, size_t, WeightMatrix) override {}
  std::span<float> vector(const std::string& tensor) override {
    if (tensor != stages_.front().fold.tensor)
      throw Error(ErrorKind::kUsage, cat("the last block has no vector ", tensor));
    return norm_;
  }
  std::unique_ptr<BlockGradient> gradient() override { return nullptr; }
  void release() const noexcept override {
    if (const StoredTensor* tensor = source_.find(stages_.front().linears.front())) tensor->release(0, tensor->rows());
  }

 private:
  const ModelConfig& config_;
  const Source& source_;
  std::vector<float> norm_;
  std::vector<BlockStage> stages_;
};

class DecoderBlocks final : public BlockSequence {
 public:
  DecoderBlocks(const Source& source, bool bf16)
      : source_(source), config_(parse_config(source.config())), space_(config_) {
    options_.compute = bf16 ? Compute::kBf16 : Compute::kFp32;
    const std::string name = tensor_of(config_, Slot::kEmbedding, {});
    embedding_ = &source.get(name);
    if (embedding_->shape() != Shape{config_.vocab_size, config_.hidden_size})
      throw Error(ErrorKind::kCorrupt,
                  cat("tensor ", name, " has the shape ", describe(embedding_->shape()), ", config.json asks for ",
                      config_.vocab_size, " rows of ", config_.hidden_size));
  }

  size_t hidden_size() const override { return config_.hidden_size; }
  size_t blocks() const override { return config_.layers + (config_.tied_embeddings ? 0 : 1); }

  void embed(std::span<const int32_t> tokens, MatrixView<float> hidden) override {
    for (size_t t = 0; t < tokens.size(); ++t) {
      if (tokens[t] < 0 || static_cast<size_t>(tokens[t]) >= config_.vocab_size)
        throw Error(ErrorKind::kUsage,
                    cat("token id ", tokens[t], " is outside the vocabulary of ", config_.vocab_size));
      // A row at a time: the table is never in memory.
      const auto row = static_cast<size_t>(tokens[t]);
      embedding_->read_rows(row, row + 1, hidden.row(t));
    }
    embedding_->release(0, embedding_->rows());
  }

  std::unique_ptr<Block> load(size_t block) override {
    if (block < config_.layers) return std::make_unique<DecoderBlock>(config_, source_, options_, block, space_);
    return std::make_unique<HeadBlock>(config_, source_);
  }

 private:
  const Source& source_;
  ModelConfig config_;
  LoadOptions options_;
  Workspace space_;
  const StoredTensor* embedding_ = nullptr;
};

}  // namespace

std::unique_ptr<BlockSequence> open_blocks(const Source& source, bool bf16) {
  return with_context([&] { return source.path().string(); },
                      [&] { return std::make_unique<DecoderBlocks>(source, bf16); });
}

}  // namespace nibble
