"""llama.cpp, prebuilt in the package xllamacpp, loads every GGUF type that nibble writes and continues a prompt as nibble would: at
each step the whole distribution of the next token is near nibble's. The model is a tiny random one; llama.cpp rounds activations to 8
bits before it multiplies with blocks, so that only float types agree to rounding. As a control each type's weights are dequantized into an F32
file: there both programs compute the same. heavy_demo_llama.py does it with a real model."""
import itertools
import json
import pathlib
import string

import numpy as np
import xllamacpp
from safetensors.numpy import load_file

import gguf_models
from gguf_models import TYPES, VOCAB
from nibble import expect, run, scratch

PROMPT = [(37 * i + 11) % 250 + 3 for i in range(24)]
STEPS = 12
FLOATS, ROUNDED = 1e-5, 1e-4  # KL divergence in nats; float32 arithmetic in another order, activations of 8 bits


def tokenizer():
    """llama.cpp's server wants a vocabulary, and leaves out tokens that are no text by themselves: this one is ASCII."""
    letters = ["\u0120", *string.ascii_letters, *string.digits, *string.punctuation]
    pairs = list(itertools.islice(itertools.product(string.ascii_lowercase, repeat=2), VOCAB - len(letters) - 1))
    tokens = letters + ["".join(pair) for pair in pairs] + ["<|end|>"]
    return {
        "added_tokens": [{"id": VOCAB - 1, "content": "<|end|>", "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [" ".join(pair) for pair in pairs]},
    }


def continued(path):
    """Tokens that llama.cpp chooses after PROMPT, and the log probabilities [STEPS, VOCAB] that it chose them by."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 64
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = -1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    answer = server.handle_completions({"prompt": PROMPT, "max_tokens": STEPS, "temperature": 0, "logprobs": VOCAB})
    steps = answer["choices"][0]["logprobs"]["content"]
    table = np.full((len(steps), VOCAB), np.nan)
    for row, step in zip(table, steps):
        for entry in step["top_logprobs"]:
            row[entry["id"]] = entry["logprob"]
    return [step["id"] for step in steps], table


def expected(path, tokens, folder):
    """nibble's log probabilities at the same places."""
    run("eval", path, "--ids", ",".join(map(str, PROMPT + tokens)), "--logits", folder / "logits.safetensors")
    logits = load_file(folder / "logits.safetensors")["logits"].astype(np.float64)[len(PROMPT) - 1 : -1]
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def main():
    with scratch() as folder:
        folder = pathlib.Path(folder)
        source = folder / "model"
        gguf_models.write(source)
        (source / "tokenizer.json").write_text(json.dumps(tokenizer()))
        for kind in TYPES:
            out, floats = folder / f"{kind}.gguf", folder / "floats.gguf"
            run("quantize", source, "-o", out, "--format", f"gguf:{kind}")
            worst = {}
            for title, file in {"itself": out, "as F32": floats}.items():
                if file is floats:
                    run("convert", out, "-o", floats, "--format", "gguf:F32", "--force")
                tokens, theirs = continued(file)
                ours = expected(out, tokens, folder)
                expect(len(tokens) == STEPS and not np.isnan(theirs).any(), kind, "llama.cpp gave no distribution")
                expect((theirs.argmax(1) == tokens).all(), kind, "llama.cpp is not greedy")
                divergence = float((np.exp(theirs) * (theirs - ours)).sum(1).max())
                # Of the token that llama.cpp took, below nibble's best.
                regret = float((ours.max(1) - ours[np.arange(STEPS), tokens]).max())
                worst[title] = (divergence, regret)
            print(f"check_llama: {kind}:", ", ".join(f"{t}: KLD {d:.1e}, regret {r:.3f}" for t, (d, r) in worst.items()), flush=True)
            expect(worst["as F32"][0] < FLOATS, kind, "its weights give other logits:", worst)
            limit = FLOATS if kind in ("F32", "F16", "BF16") else ROUNDED
            expect(worst["itself"][0] < limit, kind, "differs:", worst)


main()
