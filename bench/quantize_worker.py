"""Quantizes a Hugging Face folder with one foreign tool and writes its own checkpoint (gptqmodel, autoround) or the floats that its weights stand for.

  python bench/quantize_worker.py TOOL MODEL OUT --calib novel.txt [--samples 32] [--seqlen 512] [--bits 4] [--group 64] [--asym] [--iterations 30]

TOOL: gptqmodel (7.7: GPTQ, its default group-aware order), llmcompressor (0.14: GPTQ, its defaults), llmcompressor-awq, autoround (0.16.1),
hqq (0.2.8; asymmetric, real-valued zero points), inc-gptq, inc-awq, inc-teq, inc-hqq, inc-rtn (neural-compressor-pt 3.10). Each runs on the CPU in
float32 with the tool's own defaults apart from bits, group, symmetry and what is noted below; the output head is kept. The calibration text is
tokenized without special tokens and cut into consecutive windows. Prints a JSON object: seconds, cpu_seconds (user + system of the process from its start
to the end of quantization, imports included as they are with any command, writing the result not), peak_rss_bytes, version. bench/quantize.py calls it.

What had to be worked around, on a CPU with transformers 5:
- GPTQModel crashes at load on two cores. Its layers in memory dequantize wrongly (zero points are stored less one, as its files want them, and read as they
  are), so that its own checkpoint is the result.
- llm-compressor's AWQ pins memory, which fails without a GPU: not done here. It does not scale o_proj's inputs under grouped-query attention.
- AutoRound by its defaults runs 200 iterations. It computes in bfloat16, as is its default; torch.compile is off, which it would use by default.
- INC finds out which layers can take up scales by torch.jit.trace, which fails here. Its AWQ then gives each linear scales of its own and multiplies its inputs
  by them when the model runs; its TEQ crashes ("'NoneType' object is not iterable") unless it is told (absorb_to_layer): norms, and up_proj for down_proj.
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


def floats(model):
    """What a model that kept its modules computes with: its linears and norms, whose gains may have taken up scales."""
    made = {name: module.weight for name, module in linears(model).items()}
    return made | {name: module.weight for name, module in model.named_modules() if type(module).__name__.endswith("RMSNorm")}


def hqq(o):
    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
    made = {}
    for name, module in linears(load(o.model)).items():
        layer = HQQLinear(module, BaseQuantizeConfig(nbits=o.bits, group_size=o.group, axis=1), compute_dtype=torch.float32, device="cpu")
        made[name] = layer
    return "hqq", lambda: write(o, {name: layer.dequantize() for name, layer in made.items()})


def llmcompressor(o):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, forward_quantize
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache
    IntermediatesCache.pin_memory = lambda *_: None  # AWQ pins its inputs, which fails where there is no GPU
    model = load(o.model)
    weights = QuantizationArgs(num_bits=o.bits, type="int", symmetric=not o.asym, strategy="group", group_size=o.group)
    what = {"config_groups": {"all": QuantizationScheme(targets=["Linear"], weights=weights)}, "ignore": ["lm_head"]}
    recipe = [AWQModifier(), QuantizationModifier(**what)] if o.tool.endswith("awq") else GPTQModifier(**what)
    ids = windows(o.model, o.calib, o.samples, o.seqlen)
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(x) for x in ids]})
    oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=o.seqlen, num_calibration_samples=len(ids), shuffle_calibration_samples=False)
    if o.tool.endswith("awq"):  # leaves scales and zero points beside float weights; GPTQ's weights lie on their grid already
        for module in linears(model).values():
            module.weight.data = forward_quantize(module, module.weight, "weight", module.quantization_scheme.weights)
    return "llmcompressor", lambda: write(o, floats(model))


def gptqmodel(o):
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with its own choice for 2 cores, 1, it crashes at load
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig
    model = GPTQModel.load(str(o.model), QuantizeConfig(bits=o.bits, group_size=o.group, sym=not o.asym, desc_act=False, offload_to_disk=False), device="cpu", dtype=torch.float32)
    ids = windows(o.model, o.calib, o.samples, o.seqlen)
    model.quantize([{"input_ids": torch.tensor([x]), "attention_mask": torch.ones(1, len(x), dtype=torch.long)} for x in ids], batch_size=1)
    return "gptqmodel", lambda: model.save(str(o.out))


def autoround(o):
    import torch
    from auto_round import AutoRound
    from transformers import AutoTokenizer
    model = load(o.model)
    ids = windows(o.model, o.calib, o.samples, o.seqlen)
    tuner = AutoRound(model, AutoTokenizer.from_pretrained(o.model), bits=o.bits, group_size=o.group, sym=not o.asym, iters=o.iterations, nsamples=len(ids),
                      seqlen=o.seqlen, dataset=[torch.tensor([x]) for x in ids], device_map="cpu", enable_torch_compile=False)
    tuner.quantize()
    return "auto-round", lambda: tuner.save_quantized(str(o.out), format="auto_round")


def train(model, ids, steps):
    """TEQ's scales: the tool leaves the training to its user. A window a step, Adam, a linear schedule."""
    import torch
    from transformers import get_scheduler
    scales = list(model._trained_alphas.values())
    adam = torch.optim.Adam(scales, lr=1e-3, betas=(0.9, 0.9))
    rate = get_scheduler("linear", adam, num_warmup_steps=int(.05 * steps), num_training_steps=steps)
    for step in range(steps):
        x = torch.tensor([ids[step % len(ids)]])
        model(x, labels=x).loss.backward()
        adam.step()
        adam.zero_grad()
        rate.step()


def inc(o):
    import torch
    import neural_compressor.torch.quantization as q
    algorithm = o.tool.split("-")[1]
    model = load(o.model)
    model.config.use_cache = False  # AWQ runs a block again and again with the inputs that it caught, a cache would grow meanwhile
    common = {"bits": o.bits, "group_size": o.group} if algorithm == "hqq" else {"bits": o.bits, "group_size": o.group, "use_sym": not o.asym}
    if algorithm == "teq":  # as INC's trace of the model fails
        common["absorb_to_layer"] = {f"model.layers.{i}.{norm}": [f"model.layers.{i}.{name}" for name in names] for i in range(model.config.num_hidden_layers) for norm, names in
                                     {"input_layernorm": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
                                      "mlp.up_proj": ["mlp.down_proj"]}.items()}
    config = {"gptq": q.GPTQConfig, "rtn": q.RTNConfig, "hqq": q.HQQConfig, "awq": q.AWQConfig, "teq": q.TEQConfig}[algorithm](**common)
    config.set_local("lm_head", type(config)(dtype="fp32"))
    ids = windows(o.model, o.calib, o.samples, o.seqlen) if algorithm in ("gptq", "awq", "teq") else []
    model = q.prepare(model, config, example_inputs=torch.tensor([ids[0]]) if ids else None)
    if algorithm == "teq":
        train(model, ids, o.iterations)
    else:
        for x in ids:
            model(torch.tensor([x]))
    model = q.convert(model)

    def save():
        made = floats(model)
        for name, module in model.named_modules():
            if hasattr(module, "qweight") or type(module).__name__ == "HQQLinear":
                made[name] = module.recover() if hasattr(module, "recover") else module.dequantize()
        for name in [name for name in made if name.endswith(".linear")]:  # AWQ scales the inputs of some linears instead of a norm
            outer = name.removesuffix(".linear")
            made[outer] = made.pop(name) * model.get_submodule(outer).input_scale
        write(o, made)
    return "neural-compressor-pt", save


TOOLS = {"gptqmodel": gptqmodel, "llmcompressor": llmcompressor, "llmcompressor-awq": llmcompressor, "autoround": autoround, "hqq": hqq,
         "inc-gptq": inc, "inc-awq": inc, "inc-teq": inc, "inc-hqq": inc, "inc-rtn": inc}


def write(o, weights):
    """The folder with these weights in the place of its own, in float32."""
    import torch
    from safetensors.torch import load_file, save_file
    tensors = {}
    for file in sorted(o.model.glob("*.safetensors")):
        tensors.update(load_file(file))
    for name, weight in weights.items():
        key = f"{name}.weight"
        weight = weight.detach().to(torch.float32)
        if tensors[key].shape != weight.shape:
            sys.exit(f"{key}: the tool made {tuple(weight.shape)} of {tuple(tensors[key].shape)}")
        if weight.ndim == 2 and torch.equal(weight, tensors[key].to(torch.float32)):
            sys.exit(f"{key}: the tool did not quantize it")
        tensors[key] = weight.contiguous().clone()
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
    parser.add_argument("--iterations", type=int, default=30, help="of AutoRound for each block, of TEQ for the model")
    parser.add_argument("--asym", action="store_true")
    o = parser.parse_args()
    package, save = TOOLS[o.tool](o)
    used = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = {"seconds": time.time() - START, "cpu_seconds": used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime,
              "peak_rss_bytes": used.ru_maxrss * 1024, "version": importlib.metadata.version(package)}
    save()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
