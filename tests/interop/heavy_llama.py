"""llama.cpp runs every GGUF type that nibble writes. It rounds activations to 8 bits before it multiplies with blocks, so that its
logits are near nibble's own and not equal, and the largest of random logits may be another one; with float weights they agree to
rounding. llama-cpp-python is compiled when it is installed, which takes minutes: hence the heavy tier."""
import pathlib

import numpy as np
from safetensors.numpy import load_file

import gguf_models
import llama_engine
from gguf_models import TYPES, VOCAB
from nibble import expect, run, scratch

IDS = [(37 * i + 11) % VOCAB for i in range(64)]

with scratch() as folder:
    folder = pathlib.Path(folder)
    source = folder / "model"
    gguf_models.write(source)
    worst = {}
    for kind in TYPES:
        out = folder / f"{kind}.gguf"
        run("quantize", source, "-o", out, "--format", f"gguf:{kind}")
        run("eval", out, "--ids", ",".join(map(str, IDS)), "--logits", folder / "logits.safetensors")
        ours = load_file(folder / "logits.safetensors")["logits"].astype(np.float64)
        theirs = llama_engine.logits(out, IDS)
        cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        top = (ours.argmax(1) == theirs.argmax(1)).mean()
        worst[kind] = (cosine.min(), top)
        exact = kind in ("F32", "F16", "BF16")
        expect(cosine.min() > 0.9999, kind, "cosine", cosine.min())
        expect(top >= (0.98 if exact else 0.9), kind, "same argmax", top)
print("heavy_llama:", ", ".join(f"{kind} {cosine:.6f} {top:.2f}" for kind, (cosine, top) in worst.items()))
