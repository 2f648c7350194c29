"""Quantizes a Hugging Face folder with one foreign tool and writes what its weights then compute with, as floats.

  python bench/quantize_worker.py TOOL MODEL OUT --calib novel.txt [--samples 32] [--seqlen 512] [--bits 4] [--group 64] [--asym]

TOOL: gptqmodel (7.7: GPTQ, its default group-aware order), llmcompressor (0.14: GPTQ, its defaults), hqq (0.2.8; asymmetric,
real-valued zero points), inc-gptq, inc-hqq, inc-rtn (neural-compressor-pt 3.10). Each runs on the CPU in float32 with the tool's own
defaults apart from bits, group, symmetry and what is noted below; the output head is kept. The calibration text is
tokenized without special tokens and cut into consecutive windows. Prints a JSON object: seconds, cpu_seconds (user + system of the process from its start to the end of
quantization, imports included as they are with any command), peak_rss_bytes, version. bench/quantize.py calls it.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import resource
import shutil
import sys
import time

START = time.time()


def windows(folder, text, samples, seqlen):
    from tokenizers import Tokenizer
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids
    return [ids[i * seqlen:(i + 1) * seqlen] for i in range(min(samples, len(ids) // seqlen))]


def load(folder):
    import torch
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def linears(model):
    import torch
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and "lm_head" not in name}


def hqq(o):
    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
    made = {}
    for name, module in linears(load(o.model)).items():
        layer = HQQLinear(module, BaseQuantizeConfig(nbits=o.bits, group_size=o.group, axis=1), compute_dtype=torch.float32, device="cpu")
        made[name] = layer
    return "hqq", lambda: {name: layer.dequantize() for name, layer in made.items()}


def llmcompressor(o):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    model = load(o.model)
    weights = QuantizationArgs(num_bits=o.bits, type="int", symmetric=not o.asym, strategy="group", group_size=o.group)
    recipe = GPTQModifier(config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)}, ignore=["lm_head"])
    ids = windows(o.model, o.calib, o.samples, o.seqlen)
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(x) for x in ids]})
    oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=o.seqlen, num_calibration_samples=len(ids), shuffle_calibration_samples=False)
    return "llmcompressor", lambda: {name: module.weight for name, module in linears(model).items()}


def gptqmodel(o):
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with its own choice for 2 cores, 1, it crashes at load
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig
    model = GPTQModel.load(str(o.model), QuantizeConfig(bits=o.bits, group_size=o.group, sym=not o.asym, desc_act=False, offload_to_disk=False), device="cpu", dtype=torch.float32)
    ids = windows(o.model, o.calib, o.samples, o.seqlen)
    model.quantize([{"input_ids": torch.tensor([x]), "attention_mask": torch.ones(1, len(x), dtype=torch.long)} for x in ids], batch_size=1)

    def weights():
        made = {}
        for name, module in model.model.named_modules():
            if hasattr(module, "dequantize_weight") and hasattr(module, "qweight"):
                made[name] = module.dequantize_weight().T
        return made
    return "gptqmodel", weights


def inc(o):
    import torch
    import neural_compressor.torch.quantization as q
    algorithm = o.tool.split("-")[1]
    model = load(o.model)
    common = {"bits": o.bits, "group_size": o.group, "use_sym": not o.asym}
    config = {"gptq": q.GPTQConfig, "rtn": q.RTNConfig}[algorithm](**common) if algorithm != "hqq" else q.HQQConfig(bits=o.bits, group_size=o.group)
    config.set_local("lm_head", type(config)(dtype="fp32"))
    model = q.prepare(model, config)
    if algorithm == "gptq":
        for x in windows(o.model, o.calib, o.samples, o.seqlen):
            model(torch.tensor([x]))
    model = q.convert(model)

    def weights():
        return {name: module.recover() if hasattr(module, "recover") else module.dequantize()
                for name, module in model.named_modules() if hasattr(module, "qweight") or hasattr(module, "dequantize")}
    return "neural-compressor-pt", weights


TOOLS = {"gptqmodel": gptqmodel, "llmcompressor": llmcompressor, "hqq": hqq, "inc-gptq": inc, "inc-hqq": inc, "inc-rtn": inc}


def write(o, weights):
    """The folder with these weights in the place of its own, in float32."""
    import torch
    from safetensors.torch import load_file, save_file
    tensors = {}
    for file in sorted(o.model.glob("*.safetensors")):
        tensors.update(load_file(file))
    for name, weight in weights.items():
        key = name.removeprefix("model.model.") if name.startswith("model.model.") else name
        key = next(k for k in (f"{key}.weight", f"model.{key}.weight") if k in tensors)
        if tensors[key].shape != weight.shape:
            sys.exit(f"{key}: the tool made {tuple(weight.shape)} of {tuple(tensors[key].shape)}")
        tensors[key] = weight.detach().to(torch.float32).contiguous().clone()
    if not weights:
        sys.exit("the tool left nothing quantized behind")
    o.out.mkdir(parents=True)
    save_file({name: tensor.to(torch.float32) for name, tensor in tensors.items()}, o.out / "model.safetensors", {"format": "pt"})
    for file in o.model.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, o.out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path, help="a folder that is not there yet")
    parser.add_argument("--calib", type=pathlib.Path, required=True)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--asym", action="store_true")
    o = parser.parse_args()
    package, weights = TOOLS[o.tool](o)
    used = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = {"seconds": time.time() - START, "cpu_seconds": used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime,
              "peak_rss_bytes": used.ru_maxrss * 1024, "version": importlib.metadata.version(package)}
    write(o, weights())
    print(json.dumps(report))


if __name__ == "__main__":
    main()
