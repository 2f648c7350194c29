#include "model/architecture_common.h"

namespace nibble {
namespace {

constexpr TensorRule kTensors[] = {
    {Slot::kEmbedding, "model.embed_tokens", "token_embd"},
    {Slot::kAttentionNorm, "model.layers.{layer}.input_layernorm", "blk.{layer}.attn_norm"},
    {Slot::kQuery, "model.layers.{layer}.self_attn.q_proj", "blk.{layer}.attn_q"},
    {Slot::kKey, "model.layers.{layer}.self_attn.k_proj", "blk.{layer}.attn_k"},
    {Slot::kValue, "model.layers.{layer}.self_attn.v_proj", "blk.{layer}.attn_v"},
    {Slot::kAttentionOutput, "model.layers.{layer}.self_attn.o_proj", "blk.{layer}.attn_output"},
    {Slot::kMlpNorm, "model.layers.{layer}.post_attention_layernorm", "blk.{layer}.ffn_norm"},
    {Slot::kGate, "model.layers.{layer}.mlp.gate_proj", "blk.{layer}.ffn_gate"},
    {Slot::kUp, "model.layers.{layer}.mlp.up_proj", "blk.{layer}.ffn_up"},
    {Slot::kDown, "model.layers.{layer}.mlp.down_proj", "blk.{layer}.ffn_down"},
    {Slot::kFinalNorm, "model.norm", "output_norm"},
    {Slot::kLmHead, "lm_head", "output"},
};

}  // namespace

// GGUF files of this family say "llama".
extern const Architecture architecture_mistral;
const Architecture architecture_mistral = {
    .name = "mistral",
    .class_name = "MistralForCausalLM",
    .gguf_name = "",
    .defaults = R"({"rms_norm_eps": 1e-6, "sliding_window": 4096, "num_key_value_heads": 8})",
    .gguf_keys = kRotaryGgufKeys,
    .tensors = kTensors,
};

}  // namespace nibble
