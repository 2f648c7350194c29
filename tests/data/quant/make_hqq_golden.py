"""Writes hqq_golden.safetensors beside itself: half-quadratic quantization by a direct numpy transcription of its
formulae, group by group and in double; the
best of all iterations. Needs numpy."""
import json
import pathlib
import struct

import numpy as np


def hqq(w, bits, relative, p=0.7, beta=10.0, kappa=1.01, iters=20):
    """Returns scale, zero point and mean |error| of one group."""
    top = 2 ** bits - 1
    s = (w.max() - w.min()) / top
    z = -w.min() / s
    best, least = z, np.inf
    unit = s if relative else 1.0
    for _ in range(iters):
        q = np.clip(np.rint(w / s + z), 0, top)
        e = (w - s * (q - z)) / unit
        error = np.abs(e).mean() * unit
        if error < least:
            best, least = z, error
        with np.errstate(divide="ignore"):
            v = np.sign(e) * np.maximum(0, np.abs(e) - np.abs(e) ** (p - 1) / beta) * unit
        z = (q - (w - v) / s).mean()
        beta *= kappa
    return s, best, least


def main():
    rng, out = np.random.default_rng(7), {}
    w = (rng.standard_t(4, (6, 96)) * np.array([0.03, 0.03, 1, 1, 1, 5])[:, None]).astype(np.float32)
    w[1] += np.float32(0.2)
    out["weight"] = w
    for bits in range(1, 9):
        for relative in (0, 1):
            rows = [[hqq(row[i:i + 40].astype(np.float64), bits, relative) for i in range(0, 96, 40)] for row in w]
            for name, values in zip(("scale", "zero", "error"), np.moveaxis(np.array(rows), 2, 0)):
                out[f"{name}.{bits}.{relative}"] = values.astype(np.float32)
    header, data = {}, b""
    for name, array in out.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = pathlib.Path(__file__).parent / "hqq_golden.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


main()
