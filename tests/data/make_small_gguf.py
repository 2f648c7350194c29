"""Writes small.gguf with the gguf package: the reader is tested on bytes that its own code base did not write."""
import pathlib

import gguf
import numpy as np

out = pathlib.Path(__file__).with_name("small.gguf")
writer = gguf.GGUFWriter(out, "llama")
writer.add_block_count(1)
writer.add_rope_freq_base(10000.0)
writer.add_add_bos_token(True)
writer.add_token_list(["<s>", "a", "\u00e9"])
writer.add_token_scores([0.0, -1.0, -2.5])
writer.add_token_types([3, 1, 1])
values = np.arange(2 * 64, dtype=np.float32).reshape(2, 64) / 16 - 4
writer.add_tensor("token_embd.weight", values)
writer.add_tensor("half.weight", values.astype(np.float16))
for name, kind in (("q4_0", gguf.GGMLQuantizationType.Q4_0), ("q8_0", gguf.GGMLQuantizationType.Q8_0)):
    writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
writer.add_tensor("norm.weight", np.ones(5, dtype=np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
