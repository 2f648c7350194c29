"""Writes small.npz: inputs for small.onnx, six samples of eight ids, as NumPy stores them (needs the package numpy)."""
import pathlib

import numpy as np

ids = np.random.default_rng(2).integers(0, 20, (6, 8))
np.savez(pathlib.Path(__file__).with_name("small.npz"), ids=ids)
