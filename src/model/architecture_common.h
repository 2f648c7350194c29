#pragma once
#include <array>
#include <string_view>
#include <utility>

#include "model/architecture.h"

// Data that several families share.
namespace nibble {

// GGUF metadata of decoders with RMSNorm, rotary positions and grouped-query attention.
inline constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kRotaryGgufKeys = {{
    {"block_count", "num_hidden_layers"},
    {"embedding_length", "hidden_size"},
    {"feed_forward_length", "intermediate_size"},
    {"attention.head_count", "num_attention_heads"},
    {"attention.head_count_kv", "num_key_value_heads"},
    {"attention.key_length", "head_dim"},
    {"context_length", "max_position_embeddings"},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps"},
    {"rope.freq_base", "rope_theta"},
    {"attention.sliding_window", "sliding_window"},
}};

}  // namespace nibble
