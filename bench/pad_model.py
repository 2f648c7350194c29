#!/usr/bin/env python3
"""pad_model.py IN OUT: a Llama checkpoint (a Hugging Face folder in F32) with its width padded by zeros to a multiple of 256.

The function stays: new columns of the residual stream are always zero, new heads read and write nothing. The root mean square of a
norm is taken over more columns, so its weight shrinks by the root of the ratio, and epsilon by the ratio.
"""
import json
import pathlib
import shutil
import sys

import numpy as np
from safetensors.numpy import load_file, save_file


def pad(values, shape):
    return np.pad(values, [(0, to - have) for have, to in zip(values.shape, shape)])


def main(source, target):
    config = json.loads((source / "config.json").read_text())
    hidden, heads, kv_heads = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or hidden // heads
    wide = -(-hidden // 256) * 256
    shared = heads // kv_heads
    new_kv = next(n for n in range(kv_heads, 64 * kv_heads) if n * shared * head % 256 == 0)
    new_heads = new_kv * shared
    if config["intermediate_size"] % 256:
        raise SystemExit("the width of the MLP is no multiple of 256")
    ratio = hidden / wide
    target.mkdir(parents=True)
    tensors = load_file(source / "model.safetensors")
    for name, values in tensors.items():
        part = name.split(".")[-2]
        if values.ndim == 1:
            tensors[name] = (pad(values, (wide,)) * np.sqrt(ratio)).astype(np.float32)
        elif part == "q_proj":
            tensors[name] = pad(values, (new_heads * head, wide))
        elif part in ("k_proj", "v_proj"):
            tensors[name] = pad(values, (new_kv * head, wide))
        elif part == "o_proj":
            tensors[name] = pad(values, (wide, new_heads * head))
        elif part == "down_proj":
            tensors[name] = pad(values, (wide, values.shape[1]))
        else:  # gate, up, the embedding and the head
            tensors[name] = pad(values, (values.shape[0], wide))
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    config |= {"hidden_size": wide, "num_attention_heads": new_heads, "num_key_value_heads": new_kv, "head_dim": head,
               "rms_norm_eps": config["rms_norm_eps"] * ratio}
    (target / "config.json").write_text(json.dumps(config))
    for file in source.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            shutil.copy(file, target / file.name)


main(*map(pathlib.Path, sys.argv[1:3]))
