"""GPTQModel loads what `--format gptq` and `awq` write and computes the logits that nibble computes, up to its arithmetic in float16;
and nibble reads what GPTQModel writes, to the last bit of the weights that GPTQModel itself unpacks."""
import json
import os
import pathlib
import shutil

# Unset, it takes half the processors, and with one worker its thread pool cannot start.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import numpy as np
import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from safetensors.torch import load_file

from nibble import DATA, expect, run, scratch

IDS = [3 + 7 * i % 250 for i in range(64)]
CASES = {
    "gptq": {"4 sym": ["--bits", 4, "--group-size", 32], "4 asym": ["--bits", 4, "--group-size", 32, "--asym"],
             "8 sym": ["--bits", 8, "--group-size", 0], "3 sym": ["--bits", 3, "--group-size", 32],
             "3 asym": ["--bits", 3, "--group-size", 32, "--asym"], "2 asym": ["--bits", 2, "--group-size", 16, "--asym"],
             "mixed": ["--bits", 4, "--group-size", 32, "--rule", ".*down_proj:bits=8,group=0", "--skip", r"model\.layers\.1\.self_attn\.q_proj"]},
    "gptq:v2": {"4 sym": ["--bits", 4, "--group-size", 32]},
    "awq": {"4 asym": ["--bits", 4, "--group-size", 32, "--asym"], "4 sym": ["--bits", 4, "--group-size", 32]},
}


def add_tokenizer(folder):
    """GPTQModel loads no model without one."""
    shutil.copy(DATA / "tokenizers/byte-level.json", folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "!", "eos_token": "!"}))


def load(folder, form):
    backend = BACKEND.AWQ_TORCH if form == "awq" else BACKEND.GPTQ_TORCH
    return GPTQModel.load(str(folder), device="cpu", dtype=torch.float16, backend=backend)


def compare(folder, form, title):
    add_tokenizer(folder)
    with torch.no_grad():
        want = load(folder, form).model(torch.tensor([IDS])).logits[0].float().numpy()
    file = folder.parent / "logits.safetensors"
    run("eval", folder, "--ids", ",".join(map(str, IDS)), "--logits", file)
    got = load_file(file)["logits"].numpy()
    cosine = float((got * want).sum() / np.sqrt((got * got).sum() * (want * want).sum()))
    same = float((got.argmax(1) == want.argmax(1)).mean())
    expect(cosine > 0.9999, form, title, "cosine", cosine)
    # An untrained model's best two logits may lie closer together than float16 tells apart.
    top = np.sort(want, axis=1)
    clear = top[:, -1] - top[:, -2] > 4e-3 * np.abs(want).max()
    expect((got.argmax(1) == want.argmax(1))[clear].all(), form, title, "best tokens differ where they are clear")
    print(f"heavy_gptqmodel: {form} {title}: cosine {cosine:.6f}, same best token at {same:.1%}")


def written_by_gptqmodel(temporary, sym, bits, desc_act):
    source, out = pathlib.Path(temporary, "source"), pathlib.Path(temporary, "theirs")
    shutil.copytree(DATA / "models/llama", source)
    add_tokenizer(source)
    random = np.random.default_rng(1)
    texts = ["".join(chr(c) for c in random.integers(97, 123, 64)) for _ in range(8)]
    model = GPTQModel.load(str(source), QuantizeConfig(bits=bits, group_size=32, sym=sym, desc_act=desc_act, act_group_aware=False), backend=BACKEND.GPTQ_TORCH)
    model.quantize(texts, batch_size=1, backend=BACKEND.GPTQ_TORCH)
    model.save(str(out))
    return out


def main():
    for form, cases in CASES.items():
        for title, flags in cases.items():
            with scratch() as temporary:
                folder = pathlib.Path(temporary, "out")
                run("quantize", DATA / "models/llama", "-o", folder, "--format", form, *flags)
                compare(folder, form, title)
    for sym, bits, desc_act in ((True, 4, False), (False, 4, False), (True, 8, True)):
        with scratch() as temporary:
            folder = written_by_gptqmodel(temporary, sym, bits, desc_act)
            floats = pathlib.Path(temporary, "floats")
            run("convert", folder, "-o", floats, "--format", "fake", "--dtype", "fp32")
            got = load_file(floats / "model.safetensors")
            compared = 0
            for name, module in load(folder, "gptq").model.named_modules():
                if not hasattr(module, "dequantize_weight"):
                    continue
                want = module.dequantize_weight().T.float()
                ulp = torch.finfo(torch.float16).eps * want.abs()
                expect(((got[name + ".weight"] - want).abs() <= ulp).all(), name, "differs from GPTQModel's")
                compared += 1
            expect(compared == 14, "GPTQModel quantized", compared, "modules")
            print(f"heavy_gptqmodel: written by GPTQModel, {bits} bits, {'symmetric' if sym else 'asymmetric'}{', act-order' if desc_act else ''}: equal")


main()
