"""GGUF files that nibble writes, read by the gguf package: structure, names, row order, and every type's values to the last bit."""
import pathlib
import struct

import gguf
import numpy as np
from safetensors.numpy import load_file

import gguf_models
from gguf_models import HEADS, HIDDEN, KV_HEADS, TYPES, gguf_name
from nibble import expect, run, scratch


def permute(weight, heads):
    """Hugging Face's row order to GGUF's."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def field(reader, key):
    return reader.fields[key].contents()


with scratch() as folder:
    folder = pathlib.Path(folder)
    source = folder / "model"
    originals = gguf_models.write(source)
    ids = folder / "text.jsonl"
    ids.write_text("\n".join(str([(7 * i + 13 * line) % 512 for i in range(48)]) for line in range(8)))

    stats = folder / "stats.gguf"
    run("calibrate", source, "--calib", ids, "-o", stats)
    reader = gguf.GGUFReader(stats)
    sums = {tensor.name: tensor.data for tensor in reader.tensors}
    expect(field(reader, "general.type") == "imatrix" and field(reader, "imatrix.chunk_count") == 8, "statistics: metadata")
    expect(len(sums) == 2 * 15, "statistics:", sorted(sums))
    for name, data in sums.items():
        if name.endswith(".counts"):
            expect(data.tolist() == [[8 * 48]], name, data)
        else:
            expect(data.shape == (1, 512 if "ffn_down" in name else HIDDEN) and (data >= 0).all() and data.sum() > 0, name, data.shape)

    # The older binary form of the same statistics chooses the same blocks.
    names = [name.removesuffix(".in_sum2") for name in sums if name.endswith(".in_sum2")]
    with open(folder / "stats.dat", "wb") as file:
        file.write(struct.pack("<i", len(names)))
        for name in names:
            values = sums[name + ".in_sum2"].ravel()
            file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 8 * 48, len(values)) + values.tobytes())

    for kind in TYPES:
        out = folder / f"{kind}.gguf"
        block = kind not in ("F32", "F16", "BF16")
        run("quantize", source, "-o", out, "--format", f"gguf:{kind}", *(["--stats", stats] if block else []))
        if kind == "Q3_K_M":
            again = folder / "legacy.gguf"
            run("quantize", source, "-o", again, "--format", f"gguf:{kind}", "--stats", folder / "stats.dat")
            same = [np.array_equal(a.data, b.data) for a, b in zip(gguf.GGUFReader(out).tensors, gguf.GGUFReader(again).tensors)]
            expect(all(same), "the older statistics choose other blocks")
        reader = gguf.GGUFReader(out)
        expect(field(reader, "general.architecture") == "llama", kind, "architecture")
        expect(field(reader, "llama.block_count") == 2 and field(reader, "llama.attention.head_count_kv") == KV_HEADS, kind, "sizes")
        expect(abs(field(reader, "llama.attention.layer_norm_rms_epsilon") - 1e-5) < 1e-9, kind, "epsilon")
        wanted = gguf.LlamaFileType[("ALL_F32" if kind == "F32" else f"MOSTLY_{kind}")]
        expect(field(reader, "general.file_type") == wanted.value, kind, "file type", field(reader, "general.file_type"))
        run("convert", out, "-o", folder / f"{kind}-plain", "--format", "fake", "--dtype", "fp32")
        plain = load_file(folder / f"{kind}-plain" / "model.safetensors")
        expect(plain.keys() == originals.keys(), kind, "names differ")
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        expect(set(tensors) == {gguf_name(name) for name in originals} | {"rope_freqs.weight"}, kind, sorted(tensors))
        for name, values in plain.items():
            tensor = tensors[gguf_name(name)]
            expect(tensor.data_offset % 32 == 0, kind, name, "is not aligned")
            heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0
            want = permute(values, heads) if heads else values
            got = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(want.shape).astype(np.float32)
            expect(np.array_equal(got, want), kind, name, tensor.tensor_type.name, "differs by", np.abs(got - want).max())
            original = originals[name]
            if original.ndim == 2:
                expect(not values[2].any() and not values[0, 32:64].any() and not values[1, :256].any(), kind, name, "zeros did not survive")
            error = np.square(values - original).sum() / np.square(original).sum()
            expect(error < (0.12 if "2" in kind else 0.04), kind, name, "relative error", error)
print(f"check_gguf_write: {len(TYPES)} types agree")
