"""compressed-tensors and transformers read what `quantize` writes and compute the logits that nibble computes."""
import json
import pathlib

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from nibble import DATA, expect, run, scratch

SCHEMES = {
    "float": None,
    "W8A16": ["--scheme", "W8A16"],
    "int4-sym-g16": ["--bits", 4, "--group-size", 16, "--sym", "--algorithm", "search"],
    "int4-asym-g32": ["--scheme", "int4-asym-g32"],
    "int3-asym": ["--bits", 3, "--group-size", 0, "--asym"],
}
MODELS = ["llama", "llama-tied-bias", "qwen3"]
IDS = list(range(3, 60, 3))


def loaded(folder):
    """The model as transformers' own loader makes it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def unpacked(folder, quantization):
    """The model with each weight unpacked by compressed-tensors. Its 0.20 cannot be loaded through transformers 5.23 when there are
    packed zero points (it prepares an unpacked tensor for them), so its compressor is called directly."""
    (scheme,) = QuantizationConfig.model_validate(quantization).config_groups.values()
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    tensors = load_file(pathlib.Path(folder, "model.safetensors"))
    for packed in [name for name in tensors if name.endswith(".weight_packed")]:
        module = packed.removesuffix("weight_packed")
        parts = {name: tensors.pop(module + name) for name in list(compressor.compression_param_names(scheme))}
        tensors[module + "weight"] = compressor.decompress(parts, scheme)["weight"]
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    expect(not unexpected and set(missing) <= {"lm_head.weight"}, "left over:", unexpected, "missing:", missing)
    return model


for name in MODELS:
    for scheme, flags in SCHEMES.items():
        with scratch() as folder:
            target = DATA / "models" / name
            model = None
            if flags:
                source, target = target, pathlib.Path(folder, "out")
                run("quantize", source, "-o", target, *flags)
                quantization = json.loads((target / "config.json").read_text())["quantization_config"]
                expect(quantization["quant_method"] == "compressed-tensors", name, scheme, "is another format")
                if not quantization["config_groups"]["group_0"]["weights"]["symmetric"]:
                    model = unpacked(target, quantization)
            model = (model or loaded(target)).eval()
            with torch.no_grad():
                want = model(torch.tensor([IDS])).logits[0].numpy()
            file = pathlib.Path(folder, "logits.safetensors")
            run("eval", target, "--ids", ",".join(map(str, IDS)), "--logits", file)
            error = np.abs(load_file(file)["logits"].numpy() - want).max() / np.abs(want).max()
            expect(error < 1e-4, name, scheme, "logits differ by", error, "of the largest")
            print(f"heavy_transformers: {name} {scheme}: within {error:.1e} of the largest logit")

# Scales of cached keys and values: read by compressed-tensors, and what transformers' own cache needs.
for name in MODELS:
    with scratch() as folder:
        tokens, target = pathlib.Path(folder, "ids.jsonl"), pathlib.Path(folder, "out")
        tokens.write_text(json.dumps(IDS) + "\n")
        run("quantize", DATA / "models" / name, "-o", target, "--scheme", "W8A16", "--kv-cache-scheme", "fp8", "--calib", tokens, "--compute", "fp32")
        quantization = json.loads((target / "config.json").read_text())["quantization_config"]
        scheme = QuantizationConfig.model_validate(quantization).kv_cache_scheme
        expect((scheme.num_bits, scheme.type, scheme.strategy, scheme.dynamic, scheme.symmetric) == (8, "float", "tensor", False, True), name, scheme)
        tensors = load_file(target / "model.safetensors")
        model = loaded(target).eval()
        own = [layer.self_attn for layer in model.model.layers]
        scales = {key: value for key, value in tensors.items() if key.endswith(("k_scale", "v_scale"))}
        expect(len(scales) == 2 * len(own), name, "has", list(scales))
        (target / "config.json").write_text(json.dumps({**json.loads((target / "config.json").read_text()), "quantization_config": {**quantization, "kv_cache_scheme": None}}))
        with torch.no_grad():
            cache = loaded(target).eval()(torch.tensor([IDS]), use_cache=True).past_key_values
        for i, attention in enumerate(own):
            for which, states in (("k_scale", cache.layers[i].keys), ("v_scale", cache.layers[i].values)):
                written = scales[f"model.layers.{i}.self_attn.{which}"]
                expect(torch.equal(getattr(attention, which).detach(), written), name, i, which, "is not what transformers loaded")
                error = abs(written.item() * 448 / states.abs().max().item() - 1)
                expect(error < 1e-4, name, i, which, "is off by", error)
        print(f"heavy_transformers: {name} kv_cache_scheme: {len(scales)} scales as transformers' cache needs them")
