#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "model/kv_cache.h"
#include "model/model.h"

namespace nibble {

struct Linear {
  WeightMatrix weight;
  std::vector<float> bias;  // [rows] or empty
};

// The modules of one block; null weights (no rows) and empty norms where the family has none.
struct DecoderLayer {
  std::vector<float> attention_norm, query_norm, key_norm, mlp_norm;
  Linear query, key, value, attention_output, gate, up, down;
};

struct DecoderWeights {
  WeightMatrix embedding;
  std::vector<DecoderLayer> layers;
  std::vector<float> final_norm;
  std::optional<WeightMatrix> lm_head;  // nothing: tied, the embedding
  std::vector<float> lm_head_bias;
  size_t bytes = 0, token_bytes = 0;  // see Model
};

DecoderWeights load_weights(const ModelConfig& config, const Source& source, const LoadOptions& options,
                            Progress& progress);

// One block alone, and what lies around the blocks: for those who never have the whole model in memory.
DecoderLayer load_layer(const ModelConfig& config, const Source& source, const LoadOptions& options, size_t index);
std::vector<float> load_final_norm(const ModelConfig& config, const Source& source);

// The generic decoder: pre-norm blocks of grouped-query attention and a gated MLP. `layer_done`: see LoadOptions; may
// be empty.
std::unique_ptr<Model> make_decoder(ModelConfig config, DecoderWeights weights,
                                    std::function<void(size_t)> layer_done = {});

}  // namespace nibble
