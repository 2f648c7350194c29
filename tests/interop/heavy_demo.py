"""The demo model in every format that torch programs load: transformers with compressed-tensors (hf), GPTQModel (gptq, awq) and torch
(pt) compute the logits on 64 tokens that nibble computes from the same files."""
import json
import os
import pathlib

# Unset, it takes half the processors, and with one worker its thread pool cannot start.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import demo
from nibble import expect, run, scratch

COSINE, SAME = 0.9999, 0.98  # what two programs that compute the same in float32 reach


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor([demo.ids()])).logits[0].double().numpy()


def by_transformers(folder):
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def by_gptqmodel(backend, dtype):
    from gptqmodel import BACKEND, GPTQModel

    return lambda folder: logits(GPTQModel.load(str(folder), device="cpu", dtype=dtype, backend=BACKEND[backend]).model)


def by_torch(folder):
    state = torch.load(folder / "saved_results/best_model.pt", weights_only=True)
    expect(json.loads((folder / "saved_results/weight_config.json").read_text()), "weight_config.json is empty")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    model.load_state_dict(state)
    return logits(model)


# Format, flags, consumer, and the bounds where its arithmetic is not float32.
CASES = {
    "hf pack-quantized int4 g64": ("hf", ["--scheme", "W4A16"], by_transformers, (COSINE, SAME)),
    "hf pack-quantized int8": ("hf", ["--scheme", "W8A16"], by_transformers, (COSINE, SAME)),
    "hf int-quantized W8A8": ("hf", ["--scheme", "W8A8"], by_transformers, (COSINE, SAME)),
    "hf float-quantized FP8": ("hf", ["--scheme", "FP8"], by_transformers, (COSINE, SAME)),
    "gptq int4 g64": ("gptq", ["--bits", 4, "--group-size", 64], by_gptqmodel("GPTQ_TORCH", torch.float16), (COSINE, SAME)),
    "gptq int4 asym g32": ("gptq", ["--bits", 4, "--group-size", 32, "--asym"], by_gptqmodel("GPTQ_TORCH", torch.float16), (COSINE, SAME)),
    "awq int4 asym g64": ("awq", ["--bits", 4, "--group-size", 64, "--asym"], by_gptqmodel("AWQ_TORCH", torch.float16), (COSINE, SAME)),
    "pt int4 g64": ("pt", ["--bits", 4, "--group-size", 64], by_torch, (COSINE, SAME)),
}

def main():
    for title, (form, flags, consumer, (least_cosine, least_same)) in CASES.items():
        with scratch() as temporary:
            out = pathlib.Path(temporary, "out")
            run("quantize", demo.model(), "-o", out, "--format", form, "--algorithm", "search", *flags)
            cosine, same = demo.agreement(demo.nibble_logits(out, temporary), consumer(out))
            print(f"heavy_demo: {title}: lowest cosine {cosine:.6f}, same best token at {same:.1%}", flush=True)
            expect(cosine > least_cosine and same >= least_same, title, "agrees less than", least_cosine, least_same)


main()
