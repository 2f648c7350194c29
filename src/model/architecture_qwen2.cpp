#include "model/architecture_common.h"

namespace nibble {
namespace {

constexpr TensorRule kTensors[] = {
    {Slot::kEmbedding, "model.embed_tokens", "token_embd"},
    {Slot::kAttentionNorm, "model.layers.{layer}.input_layernorm", "blk.{layer}.attn_norm"},
    {Slot::kQuery, "model.layers.{layer}.self_attn.q_proj", "blk.{layer}.attn_q", {.always = true}},
    {Slot::kKey, "model.layers.{layer}.self_attn.k_proj", "blk.{layer}.attn_k", {.always = true}},
    {Slot::kValue, "model.layers.{layer}.self_attn.v_proj", "blk.{layer}.attn_v", {.always = true}},
    {Slot::kAttentionOutput, "model.layers.{layer}.self_attn.o_proj", "blk.{layer}.attn_output"},
    {Slot::kMlpNorm, "model.layers.{layer}.post_attention_layernorm", "blk.{layer}.ffn_norm"},
    {Slot::kGate, "model.layers.{layer}.mlp.gate_proj", "blk.{layer}.ffn_gate"},
    {Slot::kUp, "model.layers.{layer}.mlp.up_proj", "blk.{layer}.ffn_up"},
    {Slot::kDown, "model.layers.{layer}.mlp.down_proj", "blk.{layer}.ffn_down"},
    {Slot::kFinalNorm, "model.norm", "output_norm"},
    {Slot::kLmHead, "lm_head", "output"},
};

}  // namespace

extern const Architecture architecture_qwen2;
const Architecture architecture_qwen2 = {
    .name = "qwen2",
    .class_name = "Qwen2ForCausalLM",
    .gguf_name = "qwen2",
    .defaults =
        R"({"rms_norm_eps": 1e-6, "use_sliding_window": false, "sliding_window": 4096,
                    "max_window_layers": 28, "num_key_value_heads": 32})",
    .gguf_keys = kRotaryGgufKeys,
    .tensors = kTensors,
};

}  // namespace nibble
