"""Writes sinq_golden.safetensors beside itself: the column factors of Sinkhorn-normalised quantization by a direct numpy
transcription of its formulae, in double. Needs numpy."""
import json
import pathlib
import struct

import numpy as np


def column_scales(tile, iters=16):
    unit = tile.std(ddof=1)
    rows, columns, best, least = np.zeros((len(tile), 1)), np.zeros(tile.shape[1]), None, np.inf
    for i in range(iters):
        current = tile / np.exp(rows + columns)
        of_rows = np.clip(current.std(1, ddof=1), 1e-3 * unit, 1e3 * unit)
        of_columns = np.clip(current.std(0, ddof=1), 1e-3 * unit, 1e3 * unit)
        every = np.concatenate([of_rows, of_columns])
        if every.max() / every.min() > least:
            break
        best, least = columns, every.max() / every.min()
        target = every.min() if i == 0 else target
        columns = np.clip(columns + np.log(np.clip(of_columns / target, 0.7, 2)), -0.3, 10)
        rows = np.clip(rows + np.log(np.clip(of_rows / target, 0.7, 2))[:, None], -0.3, 10)
    return np.exp(best.mean() - best)


def main():
    rng = np.random.default_rng(7)
    w = (rng.standard_t(4, (30, 56)) * np.exp(rng.normal(0, 0.6, 56)) * 0.03).astype(np.float32)
    out = {"weight": w}
    for group in (24, 56):
        tiles = [w[:, i:i + group].astype(np.float64) for i in range(0, 56, group)]
        out[f"scales.{group}"] = np.concatenate([column_scales(tile) for tile in tiles]).astype(np.float32)
    header, data = {}, b""
    for name, array in out.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = pathlib.Path(__file__).parent / "sinq_golden.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


main()
