"""Graphs of onnxruntime-genai's model builder: nibble reads them as the models they came from, and what it quantizes, ONNX Runtime runs."""
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from safetensors.numpy import load_file

from nibble import DATA, expect, run, scratch

MODELS = ["llama", "llama-tied-bias"]
IDS = list(range(3, 60, 3))


def export(model, folder):
    """The builder wants a tokenizer, whatever it is."""
    source, out = folder / f"{model}-hf", folder / model
    shutil.copytree(DATA / "models" / model, source)
    shutil.copy(DATA / "tokenizers" / "byte-level.json", source / "tokenizer.json")
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-m", "none", "-o", out, "-p", "fp32", "-e", "cpu",
               "-c", folder / "cache"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    expect(done.returncode == 0, "the builder failed:", done.stderr[-2000:])
    return out


def runtime_logits(folder):
    # No onnx.checker here: the builder's own graphs use operators of ONNX Runtime in ONNX's domain, which it refuses.
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # inputs of dequantized products stay floats
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.array([IDS]), "attention_mask": np.ones((1, len(IDS)), np.int64)}
    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            feeds[value.name] = np.zeros([1, decoder["num_key_value_heads"], 0, decoder["head_size"]], np.float32)
    return session.run(["logits"], feeds)[0][0]


def nibble_logits(folder, scratch_folder):
    path = scratch_folder / "logits.safetensors"
    run("eval", folder, "--ids", ",".join(map(str, IDS)), "--logits", path)
    return load_file(path)["logits"]


def nibbles(packed, blocks):
    """Zero points of each row; what pads an odd row is nobody's."""
    return np.stack([packed & 15, packed >> 4], -1).reshape(-1, blocks + blocks % 2)[:, :blocks]


def packed(folder):
    model = onnx.load(folder / "model.onnx")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            codes, scales, *zeros = [stored[name] for name in node.input[1:] if name]
            found[node.name.removesuffix("_Q4")] = [codes, scales.ravel(), *(nibbles(z, codes.shape[1]) for z in zeros)]
    return found


compared = 0
with scratch() as folder:
    folder = pathlib.Path(folder)
    for model in MODELS:
        graph = export(model, folder)
        golden = nibble_logits(DATA / "models" / model, folder)
        largest = np.abs(golden).max()

        def close(got, want, what, tolerance=2e-5):
            expect(np.abs(got - want).max() < tolerance * largest, model, what, "differs by", np.abs(got - want).max() / largest)

        close(nibble_logits(graph, folder), golden, "read from the graph")
        close(runtime_logits(graph), golden, "run by ONNX Runtime")
        text = folder / "calibration.jsonl"
        text.write_text("".join(json.dumps({"ids": list(range(start, start + 64))}) + "\n" for start in range(1, 9)))
        for name, flags in {
            "rtn-asym": ["--asym", "--algorithm", "rtn"],
            "search": ["--sym", "--algorithm", "search"],
            "gptq": ["--sym", "--full-range", "--algorithm", "gptq", "--calib", text],
            "awq-gptq": ["--asym", "--algorithm", "awq,gptq", "--calib", text],
        }.items():
            out = folder / f"{model}-{name}"
            run("quantize", graph, "-o", out, "--format", "onnx", "--bits", 4, "--group-size", 16, *flags)
            close(nibble_logits(out, folder), runtime_logits(out), name)
            compared += 1
        # DequantizeLinear before the products and the look-up, blocks along either axis; the codes survive the way to MatMulNBits.
        for name, flags in {
            "qdq-asym": ["--bits", 4, "--group-size", 16, "--asym", "--embedding", "8:16"],
            "qdq-gptq": ["--bits", 4, "--group-size", 16, "--sym", "--algorithm", "gptq", "--calib", text],
            "qdq-rows": ["--bits", 8, "--group-size", 0, "--sym"],
        }.items():
            out, packed_out = folder / f"{model}-{name}", folder / f"{model}-{name}-packed"
            run("quantize", graph, "-o", out, "--format", "onnx-qdq", *flags)
            close(nibble_logits(out, folder), runtime_logits(out), name)
            run("convert", out, "-o", packed_out, "--format", "onnx")
            kinds = {node.op_type for node in onnx.load(packed_out / "model.onnx").graph.node}
            expect("MatMulNBits" in kinds and "DequantizeLinear" not in kinds, packed_out.name, "has", kinds)
            close(nibble_logits(packed_out, folder), nibble_logits(out, folder), f"{name} as MatMulNBits", 1e-6)
            compared += 1
        # Integer products: ranges from nibble's decoder, arithmetic in ONNX Runtime. The two static forms are the same function.
        integers = {}
        for format, flags in {
            "onnx": ["--scheme", "W8A8-static"],
            "onnx-qdq": ["--scheme", "W8A8-static"],
            "smooth": ["--scheme", "W8A8-static", "--smoothquant", "0.5"],
            "percentile": ["--scheme", "W8A8-static", "--act-observer", "percentile:99.99", "--asym"],
            "entropy": ["--scheme", "W8A8-static", "--act-observer", "entropy"],
            "dynamic": ["--scheme", "W8A8", "--smoothquant", "0.5"],
            "tensor": ["--scheme", "W8A8", "--smoothquant", "0.5", "--dynamic-ranges", "tensor"],
        }.items():
            out = folder / f"{model}-w8a8-{format}"
            run("quantize", graph, "-o", out, "--format", format if format.startswith("onnx") else "onnx", *flags, "--calib", text)
            integers[format] = runtime_logits(out)
            close(integers[format], golden, f"W8A8 {format}", 0.08 if format in ("dynamic", "tensor") else 0.2)
            compared += 1
        expect(np.abs(integers["onnx"] - integers["onnx-qdq"]).max() < 1e-3 * largest, model, "QDQ and integer operators differ")
        if model == "llama":
            for symmetric, flags in [(False, ["--asym"]), (True, ["--sym", "--full-range"])]:
                theirs, ours = folder / f"ort-{symmetric}", folder / f"rtn-{symmetric}"
                quantizer = MatMulNBitsQuantizer(onnx.load(graph / "model.onnx"), block_size=32, is_symmetric=symmetric)
                quantizer.process()
                theirs.mkdir()
                quantizer.model.save_model_to_file(str(theirs / "model.onnx"))
                run("quantize", graph, "-o", ours, "--format", "onnx", "--bits", 4, "--group-size", 32, "--set", "rtn.onnx=1", *flags)
                mine, other = packed(ours), packed(theirs)
                expect(mine.keys() == other.keys() and len(mine) > 0, "other nodes are quantized:", mine.keys() ^ other.keys())
                for name, parts in mine.items():
                    for part, expected in zip(parts, other[name], strict=True):
                        expect(np.array_equal(part, expected), name, "differs from what ONNX Runtime's quantizer makes of it")
print(f"heavy_onnx: {compared} quantized graphs agree")
