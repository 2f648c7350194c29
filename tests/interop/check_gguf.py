"""A Llama GGUF written by the gguf package, converted by nibble: the same numbers under the names of Hugging Face."""
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file
from tokenizers import pre_tokenizers

from nibble import expect, run, scratch

HIDDEN, FFN, HEADS, KV_HEADS, LAYERS = 64, 128, 4, 2, 2
HEAD = HIDDEN // HEADS


def permute(weight, heads):
    """Hugging Face's row order to GGUF's: the two halves of each head are interleaved."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def unpermute(weight, heads):
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


random = np.random.default_rng(1)
merged = ["th", "the", "nd"]
vocabulary = sorted(pre_tokenizers.ByteLevel.alphabet()) + merged + ["<|end|>"]
expected = {}


def add(writer, name, hf_name, shape, kind=Type.F32, heads=0):
    values = random.standard_normal(shape).astype(np.float32)
    if kind == Type.F32:
        stored = values
        writer.add_tensor(name, stored)
    elif kind == Type.F16:
        stored = values.astype(np.float16)
        writer.add_tensor(name, stored)
    else:
        packed = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        stored = gguf.quants.dequantize(packed, kind)
    stored = stored.astype(np.float32)
    expected[hf_name] = unpermute(stored, heads) if heads else stored


with scratch() as folder:
    path = pathlib.Path(folder, "tiny.gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([1] * (256 + len(merged)) + [3])
    writer.add_token_merges(["t h", "th e", "n d"])
    writer.add_eos_token_id(len(vocabulary) - 1)
    add(writer, "token_embd.weight", "model.embed_tokens.weight", (len(vocabulary), HIDDEN), Type.Q8_0)
    add(writer, "output_norm.weight", "model.norm.weight", (HIDDEN,))
    add(writer, "output.weight", "lm_head.weight", (len(vocabulary), HIDDEN), Type.F16)
    for layer in range(LAYERS):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        add(writer, theirs + "attn_norm.weight", ours + "input_layernorm.weight", (HIDDEN,))
        add(writer, theirs + "ffn_norm.weight", ours + "post_attention_layernorm.weight", (HIDDEN,))
        add(writer, theirs + "attn_q.weight", ours + "self_attn.q_proj.weight", (HIDDEN, HIDDEN), Type.Q4_0, HEADS)
        add(writer, theirs + "attn_k.weight", ours + "self_attn.k_proj.weight", (KV_HEADS * HEAD, HIDDEN), Type.Q4_1, KV_HEADS)
        add(writer, theirs + "attn_v.weight", ours + "self_attn.v_proj.weight", (KV_HEADS * HEAD, HIDDEN), Type.Q5_0)
        add(writer, theirs + "attn_output.weight", ours + "self_attn.o_proj.weight", (HIDDEN, HIDDEN), Type.Q5_1)
        add(writer, theirs + "ffn_gate.weight", ours + "mlp.gate_proj.weight", (FFN, HIDDEN), Type.Q4_0)
        add(writer, theirs + "ffn_up.weight", ours + "mlp.up_proj.weight", (FFN, HIDDEN), Type.F32)
        add(writer, theirs + "ffn_down.weight", ours + "mlp.down_proj.weight", (HIDDEN, FFN), Type.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    probe = np.arange(64 * 3, dtype=np.float32).reshape(64, 3)
    expect(np.array_equal(unpermute(permute(probe, 4), 4), probe), "this script's unpermute is not the inverse of permute")

    out = pathlib.Path(folder, "plain")
    run("convert", path, "-o", out, "--format", "fake", "--dtype", "fp32")
    got = load_file(out / "model.safetensors")
    expect(got.keys() == expected.keys(), "names differ:", sorted(got.keys() ^ expected.keys()))
    for name, want in expected.items():
        expect(np.array_equal(got[name], want), name, "differs by", np.abs(got[name] - want).max())
    ids = run("tokenize", path, "--text", "the end<|end|>")["ids"]
    pieces = [vocabulary[i] for i in ids]
    expect(pieces == ["the", "\u0120", "e", "nd", "<|end|>"], "tokenized to", pieces)
print(f"check_gguf: {len(expected)} tensors agree")
