"""torch reads what `--format pt` writes, bit for bit what `--format fake` wrote, and runs it; nibble reads what torch.save wrote
(both of its formats, one file and shards, several types, transposed tensors)."""
import json
import pathlib
import zipfile

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from nibble import DATA, expect, run, scratch

IDS = list(range(3, 60, 3))


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def logits(model, folder):
    file = pathlib.Path(folder, "logits.safetensors")
    run("eval", model, "--ids", ",".join(map(str, IDS)), "--logits", file)
    return load_file(file)["logits"].numpy()


def check_written(name, flags):
    with scratch() as folder:
        out = pathlib.Path(folder, "out")
        run("quantize", DATA / "models" / name, "-o", out, *flags, "--format", "pt,fake")
        file = out / "pt/saved_results/best_model.pt"
        expect(zipfile.ZipFile(file).testzip() is None, name, flags, "a checksum is wrong")
        for mapped in (False, True):
            state = torch.load(file, weights_only=True, mmap=mapped)
            expect(type(state).__name__ == "OrderedDict", name, "is a", type(state))
            fake = load_file(out / "fake/model.safetensors")
            config = AutoConfig.from_pretrained(out / "pt")
            expected = set(fake) | ({"lm_head.weight"} if config.tie_word_embeddings else set())
            expect(set(state) == expected, name, flags, set(state) ^ expected)
            for key, tensor in fake.items():
                expect(same(state[key], tensor), name, flags, key, "differs from what fake wrote")
                expect(state[key].data_ptr() % 64 == 0 or not mapped, name, key, "is not aligned")
        weights = json.loads((out / "pt/saved_results/weight_config.json").read_text())
        entry = weights["model.layers.0.mlp.up_proj"]
        expect(set(entry) >= {"bits", "group_size", "scheme", "algorithm"}, name, entry)
        model = AutoModelForCausalLM.from_config(config, dtype=state["model.norm.weight"].dtype)
        model.load_state_dict(state)
        with torch.no_grad():
            want = model.eval().float()(torch.tensor([IDS])).logits[0].numpy()
        error = np.abs(logits(out / "pt", folder) - want).max() / np.abs(want).max()
        expect(error < 1e-4, name, flags, "logits differ by", error)
        # What was written is a model like any other.
        run("convert", out / "pt", "-o", out / "again", "--format", "fake")
        for key, tensor in load_file(out / "again/model.safetensors").items():
            expect(same(fake[key], tensor), name, key, "changed on its way back")
        print(f"heavy_torch: {name} {' '.join(map(str, flags))}: {len(fake)} tensors equal, logits within {error:.1e}")


def check_read(name):
    source = DATA / "models" / name
    state = load_file(source / "model.safetensors")
    types = {"F32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "F64": torch.float64}
    for title, dtype in types.items():
        for layout in ("archive", "stream", "shards", "transposed"):
            with scratch() as folder:
                model = pathlib.Path(folder, "model")
                model.mkdir()
                (model / "config.json").write_text((source / "config.json").read_text())
                cast = {key: tensor.to(dtype) for key, tensor in state.items()}
                if layout == "transposed":
                    cast = {key: t.t().contiguous().t() if t.dim() == 2 else torch.nn.Parameter(t) for key, t in cast.items()}
                if layout == "shards":
                    keys = sorted(cast)
                    weight_map = {}
                    for i in range(2):
                        shard = {key: cast[key] for key in keys[i::2]}
                        torch.save(shard, model / f"pytorch_model-{i + 1:05}-of-00002.bin")
                        weight_map |= {key: f"pytorch_model-{i + 1:05}-of-00002.bin" for key in shard}
                    (model / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
                else:
                    torch.save(cast, model / "pytorch_model.bin", _use_new_zipfile_serialization=layout != "stream")
                reference = pathlib.Path(folder, "reference")
                reference.mkdir()
                (reference / "config.json").write_text((source / "config.json").read_text())
                save_file({key: tensor.contiguous() for key, tensor in cast.items()}, reference / "model.safetensors")
                for which in (model, reference):
                    run("convert", which, "-o", which.parent / (which.name + "-out"), "--format", "fake", "--dtype", "fp32")
                got, want = (load_file(pathlib.Path(folder, w + "-out", "model.safetensors")) for w in ("model", "reference"))
                expect(set(got) == set(want), name, title, layout, set(got) ^ set(want))
                for key in want:
                    expect(same(got[key], want[key]), name, title, layout, key, "differs")
                if title == "F32":
                    expect(np.array_equal(logits(model, folder), logits(reference, folder)), name, layout, "other logits")
    print(f"heavy_torch: {name}: read from {len(types)} types in 4 layouts")


for name in ("llama", "llama-tied-bias", "qwen3"):
    check_written(name, ["--bits", 4, "--group-size", 16])
    check_read(name)
check_written("llama", ["--scheme", "int4-asym-g32", "--dtype", "bf16", "--algorithm", "search"])
