"""A random Llama whose rows are whole blocks of every GGUF type, as a Hugging Face folder."""
import json

import numpy as np
from safetensors.numpy import save_file

HIDDEN, FFN, HEADS, KV_HEADS, LAYERS, VOCAB = 256, 512, 4, 2, 2, 512
HEAD = HIDDEN // HEADS
TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K_S", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M",
         "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS"]
GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    base = name.removesuffix(".weight")
    if base.startswith("model.layers."):
        layer, part = base.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{GGUF_NAMES[part]}.weight"
    return GGUF_NAMES[base] + ".weight"


def write(folder):
    """Writes the checkpoint; some groups, a block and a row are all zero. Returns its tensors."""
    random = np.random.default_rng(5)
    tensors = {}

    def add(name, *shape):
        scale = 1.0 if len(shape) == 1 else 0.6 / np.sqrt(shape[1])
        values = random.standard_normal(shape).astype(np.float32) * scale
        if len(shape) == 1:
            values = 1 + 0.1 * values
        else:
            values[0, 16:64] = 0
            values[1, :256] = 0
            values[2] = 0
        tensors[name + ".weight"] = values.astype(np.float32)

    add("model.embed_tokens", VOCAB, HIDDEN)
    tensors["model.embed_tokens.weight"] *= 20
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        add(prefix + "input_layernorm", HIDDEN)
        add(prefix + "self_attn.q_proj", HEADS * HEAD, HIDDEN)
        add(prefix + "self_attn.k_proj", KV_HEADS * HEAD, HIDDEN)
        add(prefix + "self_attn.v_proj", KV_HEADS * HEAD, HIDDEN)
        add(prefix + "self_attn.o_proj", HIDDEN, HEADS * HEAD)
        add(prefix + "post_attention_layernorm", HIDDEN)
        add(prefix + "mlp.gate_proj", FFN, HIDDEN)
        add(prefix + "mlp.up_proj", FFN, HIDDEN)
        add(prefix + "mlp.down_proj", HIDDEN, FFN)
    add("model.norm", HIDDEN)
    add("lm_head", VOCAB, HIDDEN)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "hidden_act": "silu",
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "vocab_size": VOCAB,
        "rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192}}))
    return tensors
