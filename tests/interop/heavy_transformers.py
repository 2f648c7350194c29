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
