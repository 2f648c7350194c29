"""Unpacks what `nibble quantize --format gptq` and `awq` wrote with an implementation of its own and compares every value, bit for bit,
with nibble's own floats of the same file. Then the other way: codes packed here, the way AutoRound leaves out g_idx included, are
read by nibble."""
import json
import pathlib
import shutil

import numpy as np
from safetensors.numpy import load_file, save_file

from nibble import DATA, expect, run, scratch

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def fields(words, bits):
    """[n, words] of int32 -> [n, words * 32 / bits] fields of each line's LSB-first stream."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    return (stream.reshape(len(words), -1, bits).astype(np.int32) << np.arange(bits)).sum(axis=2)


def words(codes, bits):
    """The inverse."""
    stream = (codes[..., None] >> np.arange(bits)) & 1
    return np.packbits(stream.astype(np.uint8).reshape(len(codes), -1), axis=1, bitorder="little").view(np.int32)


def awq_fields(packed):
    nibbles = (packed[..., None].view(np.uint32) >> (4 * np.arange(8, dtype=np.uint32))) & 15
    out = np.empty(nibbles.shape, np.int32)
    out[..., AWQ_ORDER] = nibbles
    return out.reshape(len(packed), -1)


def awq_words(codes):
    ordered = codes.reshape(len(codes), -1, 8)[..., AWQ_ORDER].astype(np.uint32)
    return (ordered << (4 * np.arange(8, dtype=np.uint32))).sum(axis=2, dtype=np.uint32).view(np.int32)


def dequantize(tensors, module, config):
    """[out, in] in float32."""
    qweight, qzeros, scales = (tensors[f"{module}.{part}"] for part in ("qweight", "qzeros", "scales"))
    expect(scales.dtype == np.float16, module, "has scales in", scales.dtype)
    if config["quant_method"] == "awq":
        codes, zeros = awq_fields(qweight), awq_fields(qzeros)
        group = np.arange(len(codes)) // (len(codes) if config["group_size"] == -1 else config["group_size"])
    else:
        bits = config["bits"]
        codes = fields(qweight.T, bits).T
        zeros = fields(qzeros, bits)
        if config["checkpoint_format"] == "gptq":
            zeros = zeros + 1
        group = tensors[module + ".g_idx"]
    return ((codes - zeros[group]).astype(np.float32) * scales.astype(np.float32)[group]).T


def compare(folder):
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    if config["quant_method"] == "gptq":
        expect(json.loads((folder / "quantize_config.json").read_text()) == config, folder, "has two configurations")
    floats = folder.with_name(folder.name + "-fake")
    run("convert", folder, "-o", floats, "--format", "fake", "--dtype", "fp32")
    tensors, want = load_file(folder / "model.safetensors"), load_file(floats / "model.safetensors")
    modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    expect(len(modules) == 14, folder, "has", len(modules), "quantized modules")
    for module in modules:
        expect(np.array_equal(dequantize(tensors, module, config), want[module + ".weight"]), folder, module, "differs")
    for name, value in want.items():
        if name.removesuffix(".weight") not in modules:
            expect(np.array_equal(tensors[name], value), folder, name, "differs")
    return want


def foreign(folder, layout, symmetric, model):
    """Random codes in every linear of the model, packed here; their values."""
    random = np.random.default_rng(1)
    tensors, want = {}, {}
    for name, value in load_file(model / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = want[name] = value
            continue
        module, (rows, columns) = name.removesuffix(".weight"), value.shape
        codes = random.integers(0, 16, (columns, rows))
        zeros = np.full((columns // 32, rows), 8) if symmetric else random.integers(1, 16, (columns // 32, rows))
        scales = (random.random((columns // 32, rows)) * 0.01).astype(np.float16)
        group = np.arange(columns) // 32
        if layout == "desc_act":
            random.shuffle(group)
            tensors[module + ".g_idx"] = group.astype(np.int32)
        tensors[module + ".scales"] = scales
        if layout == "awq":
            tensors[module + ".qweight"], tensors[module + ".qzeros"] = awq_words(codes), awq_words(zeros)
        else:
            tensors[module + ".qweight"] = np.ascontiguousarray(words(codes.T, 4).T)
            tensors[module + ".qzeros"] = words(zeros - (layout != "v2"), 4)
        want[name] = ((codes - zeros[group]).astype(np.float32) * scales.astype(np.float32)[group]).T
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {
        "awq": {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 32, "zero_point": True},
        "v2": {"quant_method": "gptq", "checkpoint_format": "gptq_v2", "bits": 4, "group_size": 32, "sym": symmetric, "desc_act": False},
        "desc_act": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": symmetric, "desc_act": True},
        "autoround": {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": 32,
                      "sym": symmetric, "data_type": "int"},
    }[layout]
    (folder / "config.json").write_text(json.dumps(config))
    return want


CASES = {
    "gptq": {
        "4 sym": ["--bits", 4, "--group-size", 32], "4 asym": ["--bits", 4, "--group-size", 16, "--asym"],
        "2 asym": ["--bits", 2, "--group-size", 16, "--asym"], "3 sym": ["--bits", 3, "--group-size", 32],
        "3 asym": ["--bits", 3, "--group-size", 0, "--asym"], "8 sym": ["--bits", 8, "--group-size", 0],
        "8 asym": ["--bits", 8, "--group-size", 32, "--asym"], "full range": ["--bits", 4, "--group-size", 32, "--full-range"],
    },
    "gptq:v1": {"4 asym": ["--bits", 4, "--group-size", 32, "--asym"]},
    "gptq:v2": {"4 sym": ["--bits", 4, "--group-size", 32]},
    "awq": {"4 asym": ["--bits", 4, "--group-size", 32, "--asym"], "4 sym rows": ["--bits", 4, "--group-size", 0]},
}

for model in ("llama", "qwen2", "llama-tied-bias"):
    for form, cases in CASES.items():
        for title, flags in cases.items():
            with scratch() as temporary:
                out = pathlib.Path(temporary, "out")
                run("quantize", DATA / "models" / model, "-o", out, "--format", form, *flags)
                compare(out)
                print(f"check_transposed: {model} {form} {title}: equal")

for layout in ("v2", "desc_act", "autoround", "awq"):
    for symmetric in (True, False):
        with scratch() as temporary:
            folder, floats = pathlib.Path(temporary, "in"), pathlib.Path(temporary, "fake")
            want = foreign(folder, layout, symmetric, DATA / "models/llama")
            run("convert", folder, "-o", floats, "--format", "fake", "--dtype", "fp32")
            got = load_file(floats / "model.safetensors")
            expect(set(got) == set(want), layout, "has other tensors")
            for name, value in want.items():
                expect(np.array_equal(got[name], value), layout, name, "differs")
            # From there to the other formats, where they hold it.
            for target in ("hf", "gptq") if layout == "desc_act" else ("hf", "gptq", "awq"):
                out = pathlib.Path(temporary, target)
                run("convert", folder, "-o", out, "--format", target)
                shutil.rmtree(floats)
                run("convert", out, "-o", floats, "--format", "fake", "--dtype", "fp32")
                again = load_file(floats / "model.safetensors")
                expect(all(np.array_equal(again[name], value) for name, value in want.items()), layout, "to", target, "differs")
            print(f"check_transposed: {layout}, {'symmetric' if symmetric else 'asymmetric'}: read and converted")
