"""llama.cpp runs every GGUF type that nibble writes. It rounds activations to 8 bits before it multiplies with blocks, so that its
logits are near nibble's own and not equal, and the largest of random logits may be another one; with float weights they agree to
rounding. llama-cpp-python is compiled when it is installed, which takes minutes: hence the heavy tier."""
import ctypes
import pathlib

import llama_cpp as llama
import numpy as np
from safetensors.numpy import load_file

import gguf_models
from gguf_models import TYPES, VOCAB
from nibble import expect, run, scratch

IDS = [(37 * i + 11) % VOCAB for i in range(64)]
SILENT = llama.llama_log_callback(lambda level, text, data: None)


def logits(path):
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    expect(model, "llama.cpp does not load", path)
    settings = llama.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = len(IDS)
    settings.n_threads = settings.n_threads_batch = 2
    context = llama.llama_init_from_model(model, settings)
    batch = llama.llama_batch_init(len(IDS), 0, 1)
    batch.n_tokens = len(IDS)
    for i, token in enumerate(IDS):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    expect(llama.llama_decode(context, batch) == 0, "llama_decode failed for", path)
    values = np.ctypeslib.as_array(llama.llama_get_logits(context), shape=(len(IDS), VOCAB)).astype(np.float64)
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    llama.llama_model_free(model)
    return values


llama.llama_log_set(SILENT, ctypes.c_void_p())
llama.llama_backend_init()
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
        theirs = logits(out)
        cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        top = (ours.argmax(1) == theirs.argmax(1)).mean()
        worst[kind] = (cosine.min(), top)
        exact = kind in ("F32", "F16", "BF16")
        expect(cosine.min() > 0.9999, kind, "cosine", cosine.min())
        expect(top >= (0.98 if exact else 0.9), kind, "same argmax", top)
print("heavy_llama:", ", ".join(f"{kind} {cosine:.6f} {top:.2f}" for kind, (cosine, top) in worst.items()))
