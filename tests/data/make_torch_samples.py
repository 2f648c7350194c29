"""Writes torch/*.bin with torch.save: the reader is tested on bytes that its own code base did not write."""
import collections
import pathlib

import torch

folder = pathlib.Path(__file__).with_name("torch")
folder.mkdir(exist_ok=True)
values = torch.arange(6.0).reshape(2, 3) / 4
state = collections.OrderedDict(
    plain=values,
    transposed=values.t(),
    tail=values.flatten()[2:],
    half=values.half(),
    brain=values.bfloat16(),
    parameter=torch.nn.Parameter(values[0].clone()),
    scalar=torch.tensor(7, dtype=torch.int64),
    empty=torch.zeros(0, 3),
    flags=torch.tensor([True, False]),
)
state._metadata = {"": {"version": 1}}
torch.save(dict(list(state.items())[:6]), folder / "stream.bin", _use_new_zipfile_serialization=False)
state["eight"] = values.to(torch.float8_e4m3fn)
state["words"] = torch.tensor([1, 65535], dtype=torch.uint16)
state["step"] = 3
torch.save(state, folder / "archive.bin")
