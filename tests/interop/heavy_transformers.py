"""transformers and compressed-tensors load what `quantize` writes and compute the logits that nibble computes."""
import json
import pathlib

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from nibble import DATA, expect, run, scratch

SCHEMES = {
    "float": None,
    "W8A16": ["--scheme", "W8A16"],
    "int4-asym-g32": ["--scheme", "int4-asym-g32"],
    "int4-sym-g16": ["--bits", 4, "--group-size", 16, "--sym", "--algorithm", "search"],
    "int3-asym": ["--bits", 3, "--group-size", 0, "--asym"],
}
MODELS = ["llama", "llama-tied-bias", "qwen3"]
IDS = list(range(3, 60, 3))


def theirs(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float().numpy()


for model in MODELS:
    for name, flags in SCHEMES.items():
        with scratch() as folder:
            source = DATA / "models" / model
            target = source
            if flags:
                target = pathlib.Path(folder, "out")
                run("quantize", source, "-o", target, *flags)
                method = json.loads((target / "config.json").read_text())["quantization_config"]["quant_method"]
                expect(method == "compressed-tensors", model, name, "is written as", method)
            logits = pathlib.Path(folder, "logits.safetensors")
            run("eval", target, "--ids", ",".join(map(str, IDS)), "--logits", logits)
            ours, want = load_file(logits)["logits"], theirs(target)
            error = np.abs(ours - want).max() / np.abs(want).max()
            expect(error < 1e-4, model, name, "logits differ by", error, "of the largest")
            print(f"heavy_transformers: {model} {name}: within {error:.1e} of the largest logit")
