#include "model/architecture_common.h"

namespace nibble {
namespace {

constexpr TensorRule kTensors[] = {
    {Slot::kEmbedding, "model.embed_tokens", "token_embd"},
    {Slot::kAttentionNorm, "model.layers.{layer}.input_layernorm", "blk.{layer}.attn_norm"},
    {Slot::kQuery, "model.layers.{layer}.self_attn.q_proj", "blk.{layer}.attn_q", {.key = "attention_bias"}, true},
    {Slot::kKey, "model.layers.{layer}.self_attn.k_proj", "blk.{layer}.attn_k", {.key = "attention_bias"}, true},
    {Slot::kValue, "model.layers.{layer}.self_attn.v_proj", "blk.{layer}.attn_v", {.key = "attention_bias"}},
    {Slot::kAttentionOutput,
     "model.layers.{layer}.self_attn.o_proj",
     "blk.{layer}.attn_output",
     {.key = "attention_bias"}},
    {Slot::kMlpNorm, "model.layers.{layer}.post_attention_layernorm", "blk.{layer}.ffn_norm"},
    {Slot::kGate, "model.layers.{layer}.mlp.gate_proj", "blk.{layer}.ffn_gate", {.key = "mlp_bias"}},
    {Slot::kUp, "model.layers.{layer}.mlp.up_proj", "blk.{layer}.ffn_up", {.key = "mlp_bias"}},
    {Slot::kDown, "model.layers.{layer}.mlp.down_proj", "blk.{layer}.ffn_down", {.key = "mlp_bias"}},
    {Slot::kFinalNorm, "model.norm", "output_norm"},
    {Slot::kLmHead, "lm_head", "output"},
};

}  // namespace

extern const Architecture architecture_llama;
const Architecture architecture_llama = {
    .name = "llama",
    .class_name = "LlamaForCausalLM",
    .gguf_name = "llama",
    .defaults = R"({"rms_norm_eps": 1e-6, "use_sliding_window": false})",
    .gguf_keys = kRotaryGgufKeys,
    .tensors = kTensors,
};

}  // namespace nibble
