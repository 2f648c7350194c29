"""Opens what `nibble quantize --format hf` wrote with the safetensors package, unpacks the codes with an implementation of its own
and compares every value, bit for bit, with what `--format fake` wrote in the same run. Also converts hf -> fake again."""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors

NIBBLE = os.environ["NIBBLE"]
MODELS = Path(os.environ["NIBBLE_TEST_DATA"]) / "models"

# Table 9 of the QLoRA paper (Dettmers et al. 2023), as published in its supplementary code.
NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
                -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
                0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], dtype=np.float32)
FP4 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0.0, -.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
FP4_BNB = np.array([0, .0625, 8, 12, 4, 6, 2, 3, -0.0, -.0625, -8, -12, -4, -6, -2, -3], dtype=np.float32) / 12
TABLES = {"nf4": NF4, "fp4": FP4, "fp4_bnb": FP4_BNB}


def e4m3():
    """All 256 values of float8_e4m3fn."""
    bits = np.arange(256)
    sign = np.where(bits & 0x80, -1.0, 1.0)
    exponent, mantissa = (bits >> 3) & 15, bits & 7
    values = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10))
    values[(bits & 0x7F) == 0x7F] = np.nan
    return (sign * values).astype(np.float32)


def load(folder):
    """Name -> array; bf16 widened to float32, float8 as its bit patterns."""
    plain = {"F32": np.float32, "F16": np.float16, "I32": np.int32, "I64": np.int64, "I8": np.int8, "U8": np.uint8, "F8_E4M3": np.uint8}
    tensors = {}
    for name, entry in safetensors.deserialize((folder / "model.safetensors").read_bytes()):
        if entry["dtype"] == "BF16":
            array = (np.frombuffer(entry["data"], np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(entry["data"], plain[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def fields(words, bits, count):
    """[rows, words] of int32 -> the first `count` fields of each row's LSB-first stream."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    stream = stream[:, : count * bits].reshape(words.shape[0], count, bits)
    return (stream.astype(np.uint32) << np.arange(bits, dtype=np.uint32)).sum(axis=2)


def group_of(columns, weights):
    size = weights.get("group_size") or columns
    return np.arange(columns) // (columns if size <= 0 else size)


def dequantize(tensors, module, weights):
    """Float32 values of one module, by the schema's definition."""
    bits, symmetric = weights["num_bits"], weights["symmetric"]
    scale = tensors[module + ".weight_scale"].astype(np.float32)
    packed = tensors.get(module + ".weight_packed")
    if packed is None:
        stored = tensors[module + ".weight"]
        rows, columns = stored.shape
        if weights["type"] == "float":
            return e4m3()[stored] * np.broadcast_to(scale.reshape(-1, scale.shape[-1] if scale.ndim > 1 else 1), (rows, 1))
        codes = stored.astype(np.int32) + 128
        zeros = tensors.get(module + ".weight_zero_point")
        zeros = None if zeros is None else zeros.astype(np.int32) + 128
    else:
        rows, columns = tensors[module + ".weight_shape"]
        codes = fields(packed, bits, columns).astype(np.int32)
        zeros = tensors.get(module + ".weight_zero_point")
        if zeros is not None and zeros.dtype == np.int8:  # one scale for the whole matrix: not packed
            zeros = zeros.reshape(1, 1).astype(np.int32) + (1 << (bits - 1))
        elif zeros is not None:
            zeros = fields(zeros.T, bits, rows).T.astype(np.int32)
    group = group_of(columns, weights)
    scale = np.broadcast_to(scale.reshape(scale.shape if scale.ndim > 1 else (1, 1)), (rows, group.max() + 1))[:, group]
    if weights["type"] in TABLES:
        return TABLES[weights["type"]][codes] * scale
    if symmetric and bits == 1:
        return (2 * codes - 1).astype(np.float32) * scale
    zero = np.int32(1 << (bits - 1)) if zeros is None else np.broadcast_to(zeros, (rows, group.max() + 1))[:, group]
    return scale * (codes - zero).astype(np.float32)


def config_of(config, module):
    """The config group of a module: exact names first, then the class that all linears have."""
    groups = config["quantization_config"]["config_groups"].values()
    for wanted in (module, "Linear"):
        for group in groups:
            if wanted in group["targets"]:
                return group["weights"]
    raise AssertionError(f"{module} belongs to no group")


def nibble(*arguments):
    subprocess.run([NIBBLE, *map(str, arguments), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def compare(hf, fake):
    tensors, floats = load(hf), load(fake)
    config = json.loads((hf / "config.json").read_text())
    compared = 0
    for name, want in floats.items():
        module = name.removesuffix(".weight")
        got = dequantize(tensors, module, config_of(config, module)) if module + ".weight_scale" in tensors else tensors[name]
        assert got.shape == want.shape, (name, got.shape, want.shape)
        assert np.array_equal(got, want), f"{hf.parent.name} {name}: {np.abs(got - want).max()}"
        compared += module + ".weight_scale" in tensors
    return compared


CASES = {
    "W4A16": ["--scheme", "W4A16"],
    "int4-asym-g32": ["--scheme", "int4-asym-g32", "--embedding", "8"],
    "3 bits asym g16": ["--bits", "3", "--group-size", "16", "--asym"],
    "5 bits asym rows": ["--bits", "5", "--group-size", "0", "--asym"],
    "7 bits full range": ["--bits", "7", "--group-size", "32", "--full-range"],
    "8 bits tensor": ["--bits", "8", "--granularity", "tensor", "--asym"],
    "short groups": ["--bits", "4", "--group-size", "40"],
    "1 bit": ["--bits", "1", "--group-size", "32"],
    "W8A8": ["--scheme", "W8A8"],
    "FP8": ["--scheme", "FP8"],
    "NF4": ["--scheme", "NF4"],
    "FP4": ["--grid", "fp4", "--group-size", "32"],
    "FP4 of bitsandbytes": ["--grid", "fp4_bnb", "--group-size", "32"],
    "mixed": ["--scheme", "W4A16", "--rule", ".*down_proj:bits=8,group=0", "--rule", ".*layers.0.*q_proj:bits=3,group=16,asym", "--lm-head", "6:32"],
    "bf16 scales": ["--scheme", "W4A16-asym", "--dtype", "bf16"],
}


def main():
    for model in ("llama", "qwen2", "llama-tied-bias"):
        for title, flags in CASES.items():
            with tempfile.TemporaryDirectory() as temporary:
                out = Path(temporary)
                # With scales in bf16 the floats still are compared exactly: `fake` of the written codes in float32.
                nibble("quantize", MODELS / model, "-o", out / "q", *flags)
                nibble("convert", out / "q", "-o", out / "fake", "--format", "fake", "--dtype", "fp32")
                compared = compare(out / "q", out / "fake")
                assert compared >= 14, (model, title, compared)
                nibble("quantize", MODELS / model, "-o", out / "both", *flags, "--format", "hf,fake")
                if "bf16" not in flags:
                    compare(out / "both/hf", out / "both/fake")
                for name in ("model.safetensors", "config.json"):
                    assert (out / "q" / name).read_bytes() == (out / "both/hf" / name).read_bytes(), (model, title, name)
                print(f"{model:16} {title:20} {compared} tensors equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
