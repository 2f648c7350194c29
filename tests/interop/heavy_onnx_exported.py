"""Decoders that torch.onnx exported: nibble finds their parts, reads them as the models they came from, and what it quantizes of them,
ONNX Runtime runs."""
import json
import pathlib
import warnings

import numpy as np
import onnxruntime
import torch
import transformers
from safetensors.numpy import load_file

from nibble import DATA, expect, run, scratch

MODELS = ["llama", "llama-tied-bias", "qwen2", "qwen3"]
IDS = list(range(3, 60, 3))


class Logits(torch.nn.Module):
    def __init__(self, folder):
        super().__init__()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.model.config.use_cache = False

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def export(source, out):
    out.mkdir()
    ids = torch.arange(3, 19)[None]
    names = ["input_ids", "attention_mask"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Logits(source), (ids, torch.ones_like(ids)), out / "model.onnx", dynamo=False, opset_version=17, input_names=names,
                          output_names=["logits"], dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names})
    return out


def runtime_logits(folder):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # inputs of dequantized products stay floats
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_ids": np.array([IDS]), "attention_mask": np.ones((1, len(IDS)), np.int64)})[0][0]


def nibble_logits(folder, scratch_folder):
    path = scratch_folder / "logits.safetensors"
    run("eval", folder, "--ids", ",".join(map(str, IDS)), "--logits", path)
    return load_file(path)["logits"]


compared = 0
with scratch() as folder:
    folder = pathlib.Path(folder)
    text = folder / "calibration.jsonl"
    text.write_text("".join(json.dumps({"ids": list(range(start, start + 64))}) + "\n" for start in range(1, 9)))
    for model in MODELS:
        graph = export(DATA / "models" / model, folder / model)
        golden = nibble_logits(DATA / "models" / model, folder)
        largest = np.abs(golden).max()

        def difference(got, want):
            return np.abs(got - want).max() / largest

        expect(difference(nibble_logits(graph, folder), golden) < 1e-6, model, "is another model when it is read from its graph")
        expect(difference(runtime_logits(graph), golden) < 2e-5, model, "is another model for ONNX Runtime")
        for name, flags in {
            "rtn": ["--bits", 4, "--asym", "--algorithm", "rtn"],
            "gptq": ["--bits", 4, "--asym", "--algorithm", "gptq", "--calib", text],
            "awq-gptq": ["--bits", 4, "--asym", "--algorithm", "awq,gptq", "--calib", text],
            "nf4-gptq": ["--grid", "nf4", "--algorithm", "gptq", "--calib", text],
            "fp4": ["--grid", "fp4_bnb", "--algorithm", "search"],
            "qdq": ["--bits", 4, "--asym", "--embedding", "8:16", "--algorithm", "gptq", "--calib", text],
        }.items():
            out = folder / f"{model}-{name}"
            run("quantize", graph, "-o", out, "--format", "onnx-qdq" if name == "qdq" else "onnx", "--group-size", 16, *flags)
            ours = nibble_logits(out, folder)
            expect(difference(ours, runtime_logits(out)) < 2e-5, model, name, "differs by", difference(ours, runtime_logits(out)))
            expect(difference(ours, golden) > 1e-3, model, name, "is not quantized")
            compared += 1
        out = folder / f"{model}-w8a8"
        run("quantize", graph, "-o", out, "--format", "onnx", "--scheme", "W8A8", "--smoothquant", "0.5", "--calib", text)
        expect(difference(runtime_logits(out), golden) < 0.08, model, "W8A8 differs by", difference(runtime_logits(out), golden))
        compared += 1
print(f"heavy_onnx_exported: {compared} quantized graphs agree")
