"""Writes ggml_blocks.safetensors and quant_golden.safetensors beside itself. Needs numpy and the PyPI package gguf.

ggml_blocks: random blocks of every type that nibble imports and what gguf-py makes of them.
quant_golden: round-to-nearest and searched grids by a direct numpy transcription of their definitions (every candidate in
turn, no shortcuts), and bit streams packed by numpy.
"""
import json
import pathlib
import struct

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
f32 = np.float32


def save(path, tensors):
    names = {np.dtype("uint8"): "U8", np.dtype("float32"): "F32", np.dtype("int32"): "I32"}
    header, data = {}, b""
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize):
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def blocks():
    rng, out = np.random.default_rng(20261122), {}
    half_offsets = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
                    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}
    for name, offsets in half_offsets.items():
        kind = gguf.GGMLQuantizationType[name]
        size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        rows, columns = 3, 512
        raw = rng.integers(0, 256, (rows, columns // size, block_bytes), dtype=np.uint8)
        for offset in offsets:
            halves = rng.normal(0, 0.02, raw.shape[:2]).astype(np.float16)
            halves[0, 0] = 0
            raw[:, :, offset:offset + 2] = halves[..., None].view(np.uint8)
        raw = raw.reshape(rows, -1)
        out[name + ".bytes"] = raw
        out[name + ".values"] = gguf.quants.dequantize(raw, kind).astype(f32)
    save(HERE / "ggml_blocks.safetensors", out)


def groups_of(w, group):
    return [slice(i, min(i + group, w.shape[1])) for i in range(0, w.shape[1], group)]


def rtn(w, bits, kind, group):
    codes, scales, zeros = np.zeros(w.shape, np.uint8), [], []
    half, top = 2 ** (bits - 1), 2 ** bits - 1
    for row in range(w.shape[0]):
        for part in groups_of(w, group):
            x = w[row, part]
            if kind == "sym":
                s, z = f32(np.abs(x).max() / f32(half - 1)), half
            elif kind == "full":
                s, z = f32(x[np.abs(x).argmax()] / f32(-half)), half
            else:
                lo, hi = min(x.min(), f32(0)), max(x.max(), f32(0))
                s = f32((hi - lo) / f32(top))
                z = int(np.clip(np.rint(-lo / s), 0, top))
            codes[row, part] = np.clip(np.rint(x / s) + z, 0, top)
            scales.append(s)
            zeros.append(z)
    return codes, np.array(scales, f32).reshape(w.shape[0], -1), np.array(zeros, np.uint8).reshape(w.shape[0], -1)


def searched_error(w, bits, kind, group):
    """Least weighted error of each group over the candidates, in double; importances |w| / max |w| of the group."""
    half, top, out = 2 ** (bits - 1), 2 ** bits - 1, []
    for row in range(w.shape[0]):
        for part in groups_of(w, group):
            x = w[row, part]
            h = np.abs(x).astype(np.float64) / np.abs(x).max()
            candidates = []
            if kind == "sym":
                base = f32(x[np.abs(x).argmax()] / f32(-half))
                for i in range(41):
                    p = 0.4 + i * 0.02
                    candidates += [(f32(p * np.float64(base)), half), (f32(-p * np.float64(base)), half)]
            else:
                lo, hi = min(x.min(), f32(0)), max(x.max(), f32(0))
                for a in np.arange(1, 0.39, -0.04):
                    for b in np.arange(1, 0.39, -0.04):
                        s = f32((f32(hi * b) - f32(lo * a)) / f32(top))
                        candidates.append((s, int(np.clip(np.rint(-f32(lo * a) / s), 0, top))))
            best = np.inf
            for s, z in candidates:
                value = (np.clip(np.rint(x / s) + z, 0, top) - z) * np.float64(s)
                best = min(best, float((h * (value - x) ** 2).sum()))
            out.append(best)
    return np.array(out, f32).reshape(w.shape[0], -1)


def grids():
    rng = np.random.default_rng(7)
    w = (rng.standard_t(4, (4, 96)) * 0.03).astype(f32)
    w[2, 32:64] = np.abs(w[2, 32:64])
    out = {"weight": w}
    for bits in (2, 3, 4, 8):
        for kind in ("sym", "full", "asym"):
            for group in (32, 40, 96):
                name = f"rtn.{kind}.{bits}.{group}"
                out[name + ".codes"], out[name + ".scales"], zeros = rtn(w, bits, kind, group)
                if kind == "asym":
                    out[name + ".zeros"] = zeros
    for bits in (2, 3, 4):
        for kind in ("sym", "asym"):
            out[f"search.{kind}.{bits}.32.error"] = searched_error(w, bits, kind, 32)
    for bits in range(1, 9):
        codes = rng.integers(0, 2 ** bits, (2, 77), dtype=np.uint8)
        spread = (codes[..., None] >> np.arange(bits)) & 1
        words = -(-77 * bits // 32)
        stream = np.zeros((2, words * 32), np.uint8)
        stream[:, :77 * bits] = spread.reshape(2, -1)
        out[f"stream.{bits}.codes"] = codes
        out[f"stream.{bits}.packed"] = np.packbits(stream, axis=1, bitorder="little").view(np.int32)
    save(HERE / "quant_golden.safetensors", out)


blocks()
grids()
