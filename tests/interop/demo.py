"""The demo model, 64 tokens of a chat with it, and how close two engines' logits for them are."""
import functools
import os
import pathlib
import subprocess

import numpy as np
from safetensors.numpy import load_file

from nibble import run

PROMPT = "What is the capital of France, and what is it known for?"  # of scripts/demo
TOKENS = 64


@functools.cache
def model():
    """Its GGUF file, downloaded where it is missing; without a network the script counts as skipped."""
    script = pathlib.Path(__file__).resolve().parents[2] / "scripts/demo-model"
    done = subprocess.run([script], capture_output=True, text=True)
    if done.returncode != 0:
        print("SKIPPED, the demo model is not here and could not be fetched:", done.stderr[-500:])
        raise SystemExit(1 if os.environ.get("CI") == "true" else 77)
    return pathlib.Path(done.stdout.strip())


@functools.cache
def ids():
    """The prompt as a chat and the beginning of what the model answers."""
    said = run("generate", model(), "--chat", "--greedy", "-p", PROMPT, "-n", TOKENS)
    return (said["prompt_tokens"] + said["tokens"])[:TOKENS]


def nibble_logits(path, folder, *flags):
    """Float64 [tokens, vocabulary] by `nibble eval`."""
    file = pathlib.Path(folder, "logits.safetensors")
    run("eval", path, "--ids", ",".join(map(str, ids())), "--logits", file, *flags)
    return load_file(file)["logits"].astype(np.float64)


def agreement(ours, theirs):
    """The cosine of all logits, and the share of positions with the same most likely token."""
    cosine = (ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs)
    return float(cosine), float((ours.argmax(1) == theirs.argmax(1)).mean())
