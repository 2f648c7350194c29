"""What `quantize --format hf` writes, decoded here by the compressed-tensors schema alone, is what `--format fake` says."""
import json
import pathlib

import numpy as np
from safetensors.numpy import load_file

from nibble import DATA, expect, run, scratch


def fields(words, bits, count):
    """The first `count` bit fields of each row of int32 words: a dense stream, least significant bit first."""
    stream = np.unpackbits(words.view(np.uint8).reshape(len(words), -1), axis=1, bitorder="little")
    return stream[:, : count * bits].reshape(len(words), count, bits) @ (1 << np.arange(bits))


def decode(tensors, module, scheme):
    """The float32 weight of one module."""
    bits, symmetric = scheme["num_bits"], scheme["symmetric"]
    half = 1 << (bits - 1)
    scale = tensors[module + ".weight_scale"]
    if module + ".weight" in tensors:
        codes = tensors[module + ".weight"].astype(np.int64)
        rows, cols = codes.shape
    else:
        rows, cols = tensors[module + ".weight_shape"]
        codes = fields(tensors[module + ".weight_packed"], bits, cols) - half
    zeros = np.zeros_like(scale, dtype=np.int64)
    if not symmetric:
        packed = tensors[module + ".weight_zero_point"]
        zeros = fields(np.ascontiguousarray(packed.T), bits, rows).T - half
    column_group = np.arange(cols) // (scheme["group_size"] or cols)
    return (codes - zeros[:, column_group]).astype(np.float32) * scale[:, column_group]


SCHEMES = {
    "W8A16": ["--scheme", "W8A16"],
    "W8A8": ["--scheme", "W8A8"],
    "W4A16-32": ["--bits", 4, "--group-size", 32, "--sym"],
    "int4-asym-g32": ["--scheme", "int4-asym-g32", "--algorithm", "search"],
    **{f"int{bits}-asym": ["--bits", bits, "--group-size", 16, "--asym"] for bits in (2, 3, 5, 6, 7, 8)},
    "int3-sym": ["--bits", 3, "--group-size", 0, "--sym", "--full-range"],
}

checked = 0
for name, flags in SCHEMES.items():
    with scratch() as folder:
        out = pathlib.Path(folder, "out")
        run("quantize", DATA / "models/llama", "-o", out, "--format", "hf,fake", *flags)
        config = json.loads((out / "hf/config.json").read_text())["quantization_config"]
        expect(config["quant_method"] == "compressed-tensors", name, "is not written as compressed-tensors")
        (group,) = config["config_groups"].values()
        expect(group["targets"] == ["Linear"], name, "targets", group["targets"])
        packed, plain = load_file(out / "hf/model.safetensors"), load_file(out / "fake/model.safetensors")
        for tensor, want in plain.items():
            if tensor in packed and packed[tensor].dtype == want.dtype:
                expect(np.array_equal(packed[tensor], want), name, tensor, "changed")
                continue
            got = decode(packed, tensor.removesuffix(".weight"), group["weights"])
            expect(np.array_equal(got, want), name, tensor, "differs by", np.abs(got - want).max())
            checked += 1
expect(checked == 14 * len(SCHEMES), "expected 14 linears for each scheme, checked", checked)
print(f"check_packing: {checked} weights in {len(SCHEMES)} schemes decode to the same floats")
