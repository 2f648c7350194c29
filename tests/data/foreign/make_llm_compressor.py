"""Writes the folders llm-compressor-* beside this file: one tiny Llama in the schemes of llm-compressor 0.14.0.1, with what
compressed-tensors makes of its weights and the logits that transformers computes with them (expected.safetensors: NAME in float32,
`input_ids`, `logits`). Not part of the tests, which only read the folders.
  python make_llm_compressor.py
"""
import json
import pathlib
import re
import shutil

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
INT8 = dict(num_bits=8, type="int", symmetric=True)


def static(weights, inputs):
    return {"group_0": QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights), input_activations=QuantizationArgs(**inputs))}


RECIPES = {
    "w4a16": lambda: QuantizationModifier(ignore=["re:.*lm_head"], config_groups=static_weights(4, 32, True)),
    "w4a16-asym": lambda: QuantizationModifier(ignore=["re:.*lm_head"], config_groups=static_weights(4, 32, False)),
    "w4a16-actorder": lambda: GPTQModifier(ignore=["re:.*lm_head"], config_groups=static_weights(4, 16, True, "weight")),
    "w8a8": lambda: QuantizationModifier(targets="Linear", scheme="W8A8", ignore=["re:.*lm_head"]),
    "w8a8-static": lambda: QuantizationModifier(
        ignore=["re:.*lm_head"],
        config_groups=static(dict(INT8, strategy="channel"), dict(num_bits=8, type="int", symmetric=False, strategy="tensor", dynamic=False))),
    "fp8-static": lambda: QuantizationModifier(targets="Linear", scheme="FP8", ignore=["re:.*lm_head"]),
    "fp8-dynamic": lambda: QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=["re:.*lm_head"]),
    "mixed-kv": lambda: QuantizationModifier(
        ignore=["re:.*lm_head", "re:.*k_proj$"],
        config_groups={
            "attention": QuantizationScheme(targets=["re:.*self_attn.*"], weights=QuantizationArgs(**INT8, strategy="channel")),
            "mlp": QuantizationScheme(targets=["re:.*mlp.*"], weights=QuantizationArgs(num_bits=4, group_size=32, strategy="group")),
        },
        kv_cache_scheme=dict(num_bits=8, type="float", strategy="tensor", dynamic=False, symmetric=True)),
}


def static_weights(bits, group, symmetric, actorder=None):
    args = QuantizationArgs(num_bits=bits, group_size=group, strategy="group", symmetric=symmetric, actorder=actorder)
    return {"group_0": QuantizationScheme(targets=["Linear"], weights=args)}


def main():
    torch.manual_seed(1)
    config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                         vocab_size=64, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
    base = HERE / "base"
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(base)
    # Weights of a model are larger than those of an untrained one: rounding should show.
    state = {name: value * 8 if "_proj" in name else value for name, value in load_file(base / "model.safetensors").items()}
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    rows = [{"input_ids": torch.randint(3, 64, (32,)).tolist(), "attention_mask": [1] * 32} for _ in range(16)]
    ids = torch.arange(3, 27)[None]
    # Asked for, not used.
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(HERE.parent / "tokenizers/byte-level.json"))
    tokenizer.pad_token = "!"
    for name, recipe in RECIPES.items():
        out = HERE / f"llm-compressor-{name}"
        shutil.rmtree(out, ignore_errors=True)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        oneshot(model=model, processor=tokenizer, dataset=Dataset.from_list(rows), recipe=recipe(), max_seq_length=32, num_calibration_samples=16,
                output_dir=str(out))
        with torch.no_grad():
            logits = model(ids).logits[0]
        weights = {f"{n}.weight": m for n, m in expected_weights(out).items()}
        save_file({**weights, "input_ids": ids[0].to(torch.int32), "logits": logits.contiguous()}, out / "expected.safetensors")
        for file in out.iterdir():
            if file.name not in ("config.json", "model.safetensors", "expected.safetensors"):
                file.unlink()
        quantization = json.loads((out / "config.json").read_text())["quantization_config"]
        print(name, quantization["format"], len(weights), "weights")
    shutil.rmtree(base)


def expected_weights(folder):
    """Each quantized weight as compressed-tensors decompresses it."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    quantization = json.loads((folder / "config.json").read_text())["quantization_config"]
    tensors = load_file(folder / "model.safetensors")
    schemes = list(QuantizationConfig.model_validate(quantization).config_groups.values())
    found = {}
    for name in [n for n in tensors if n.endswith("weight_scale")]:
        module = name.removesuffix(".weight_scale")
        scheme = next(s for s in schemes if any(t == "Linear" or re.match(t.removeprefix("re:"), module) for t in s.targets))
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        parts = {part: tensors[f"{module}.{part}"] for part in compressor.compression_param_names(scheme) if f"{module}.{part}" in tensors}
        found[module] = compressor.decompress(parts, scheme)["weight"].to(torch.float32).contiguous()
    return found


main()
