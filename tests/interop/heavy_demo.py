"""The demo model in every format that torch programs load: transformers with compressed-tensors (hf), GPTQModel (gptq, awq) and torch
(pt) compute the logits on 64 tokens that nibble computes from the same files."""
import json
import os
import pathlib

# Unset, it takes half the processors, and with one worker its thread pool cannot start.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import demo
from nibble import expect, run, scratch

EXACT = (0.9999, 0.98)  # cosine of all logits and share of equal best tokens, where both compute the same in floats


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


class QuantizedInputs(torch.nn.Module):
    """A linear whose inputs are rounded to 255 levels for each token: scale = largest / 127, as nibble has it."""

    def __init__(self, linear):
        super().__init__()
        self.weight = linear.weight

    def forward(self, x):
        scale = x.abs().amax(-1, keepdim=True) / 127
        return torch.nn.functional.linear((x / scale).round() * scale, self.weight)


def by_definition(dtype):
    """The weights as floats in transformers' model, its inputs rounded here, computed in `dtype`."""

    def consumer(folder):
        plain = folder.parent / "plain"
        run("convert", folder, "-o", plain, "--format", "fake", "--dtype", "fp32", "--force")
        model = AutoModelForCausalLM.from_pretrained(plain, dtype=dtype)
        for layer in model.model.layers:
            for part in (layer.self_attn, layer.mlp):
                for name, child in list(part.named_children()):
                    if isinstance(child, torch.nn.Linear):
                        setattr(part, name, QuantizedInputs(child))
        return logits(model)

    return consumer


def first_block(folder):
    """The demo model without its other blocks."""
    run("convert", demo.model(), "-o", folder, "--format", "fake", "--dtype", "fp32")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layers." not in name or ".layers.0." in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    return folder


# Format, flags, consumer. Bounds where the consumer's arithmetic is another one:
#  - GPTQModel computes in float16.
#  - Quantized inputs: through 30 blocks, a code that falls to the other side grows. The same definition in float32 and in float64 (the
#    control below) is no nearer to itself. On one block FP8 agrees to rounding.
#  - W8A8: compressed-tensors simulates a scale of largest / 127.5, nibble has largest / 127: other codes. On one block
#    the definition agrees to rounding, and compressed-tensors to what 8 bits cost.
CASES = {
    "hf pack-quantized int4 g64": ("hf", ["--scheme", "W4A16"], by_transformers, EXACT),
    "hf pack-quantized int8": ("hf", ["--scheme", "W8A16"], by_transformers, EXACT),
    "hf float-quantized FP8": ("hf", ["--scheme", "FP8"], by_transformers, (0.98, 0.80)),
    "hf int-quantized W8A8": ("hf", ["--scheme", "W8A8"], by_transformers, (0.98, 0.80)),
    "gptq int4 g64": ("gptq", ["--bits", 4, "--group-size", 64], by_gptqmodel("GPTQ_TORCH", torch.float16), EXACT),
    "gptq int4 asym g32": ("gptq", ["--bits", 4, "--group-size", 32, "--asym"], by_gptqmodel("GPTQ_TORCH", torch.float16), EXACT),
    "awq int4 asym g64": ("awq", ["--bits", 4, "--group-size", 64, "--asym"], by_gptqmodel("AWQ_TORCH", torch.float16), EXACT),
    "pt int4 g64": ("pt", ["--bits", 4, "--group-size", 64], by_torch, EXACT),
}
ONE_BLOCK = {
    "hf float-quantized FP8, one block": ("hf", ["--scheme", "FP8"], by_transformers, EXACT),
    "hf int-quantized W8A8, one block": ("hf", ["--scheme", "W8A8"], by_transformers, (0.999, 0.90)),
    "hf int-quantized W8A8, one block, by the definition": ("hf", ["--scheme", "W8A8"], by_definition(torch.float32), EXACT),
}


def check(source, title, form, flags, consumer, bounds):
    with scratch() as temporary:
        out = pathlib.Path(temporary, "out")
        run("quantize", source, "-o", out, "--format", form, "--algorithm", "search", *flags)
        cosine, same = demo.agreement(demo.nibble_logits(out, temporary), consumer(out))
        print(f"heavy_demo: {title}: cosine {cosine:.6f}, same best token at {same:.1%}", flush=True)
        expect(cosine > bounds[0] and same >= bounds[1], title, "agrees less than", bounds)


def control():
    with scratch() as temporary:
        out = pathlib.Path(temporary, "out")
        run("quantize", demo.model(), "-o", out, "--scheme", "W8A8", "--algorithm", "search")
        cosine, same = demo.agreement(by_definition(torch.float32)(out), by_definition(torch.float64)(out))
        print(f"heavy_demo: W8A8 by the definition, float32 and float64: cosine {cosine:.6f}, same best token at {same:.1%}", flush=True)
        expect(cosine < 0.999, "W8A8 is exact after all: its bounds are too loose")


def main():
    for title, case in CASES.items():
        check(demo.model(), title, *case)
    with scratch() as temporary:
        source = first_block(pathlib.Path(temporary, "first"))
        for title, case in ONE_BLOCK.items():
            check(source, title, *case)
    control()


main()
