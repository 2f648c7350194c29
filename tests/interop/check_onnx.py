"""A hand-made ONNX graph, quantized by nibble: ONNX's checker accepts every output, and ONNX Runtime computes what the codes say."""
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

from nibble import DATA, expect, run, scratch

IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]], np.int64)
SOURCE = DATA / "small.onnx"
# Levels of MatMulBnb4, by quant_type: bitsandbytes' FP4, NF4.
FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / 12
LEVELS = [np.concatenate([FP4, -FP4]), np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0], np.float32)]


def load(path):
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.load(path)


def logits(path, level=None, ids=IDS):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if level:  # a QDQ weight runs as MatMulNBits, which rounds its inputs to int8 unless told otherwise
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"ids": ids})[0]


def fields(packed, bits, count):
    """The first `count` fields of each row of bytes, lowest bits first."""
    parts = np.stack([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], -1)
    return parts.reshape(*packed.shape[:-1], -1)[..., :count].astype(np.float32)


def weights(model):
    """The matrices that a model multiplies with, [outputs, inputs], by node."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "MatMulNBits":
            bits, columns = attributes["bits"], attributes["K"]
            codes = fields(stored[node.input[1]], bits, attributes["block_size"])
            scales = stored[node.input[2]].reshape(codes.shape[0], -1)
            zeros = np.full_like(scales, 2 ** (bits - 1))
            if len(node.input) > 3 and node.input[3]:
                zeros = fields(stored[node.input[3]], bits, scales.shape[1])
            values = scales[..., None] * (codes - zeros[..., None])
            found[node.name] = values.reshape(codes.shape[0], -1)[:, :columns]
        elif node.op_type == "MatMulBnb4":
            codes, scales = stored[node.input[1]], stored[node.input[2]]
            codes = np.stack([codes >> 4, codes & 15], -1).reshape(-1, attributes["block_size"])
            found[node.name] = (LEVELS[attributes["quant_type"]][codes] * scales[:, None]).reshape(attributes["N"], attributes["K"])
        elif node.op_type in ("MatMul", "Gemm"):
            value = node.input[1]
            if value in stored:
                found[node.name] = stored[value] if attributes.get("transB") else stored[value].T
            elif made[value].op_type == "Transpose":
                found[node.name] = stored[made[value].input[0]]
    return found, stored


def forward(found, table, bias):
    x = table[IDS[0]]
    x = np.maximum(x @ found["/layers.0/up/MatMul"].T, 0) @ found["/layers.0/down/MatMul"].T
    x = x @ found["/layers.1/first/MatMul"].T @ found["/layers.1/second/MatMul"].T
    return (x @ found["/layers.2/Gemm"].T + bias) @ found["/head/MatMul"].T


def integer_forward(model, tensor_ranges):
    """What dynamic W8A8 means: inputs of each product rounded, with a range for each token or one for all, weights from their codes."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    def product(x, name):
        if tensor_ranges:
            low, high = min(x.min(), 0), max(x.max(), 0)
            scale = (high - low) / np.float32(255)
            zero = np.clip(np.rint(-low / scale), 0, 255)
            rounded = np.clip(np.rint(x / scale) + zero, 0, 255) - zero
        else:
            scale = np.abs(x).max(-1, keepdims=True) / np.float32(127)
            rounded = np.rint(x / scale)
        codes = stored[name + "_quantized"].astype(np.float64) - stored.get(name + "_zero_point", np.float64(0))
        return (rounded @ (codes * stored[name + "_scale"]) * scale).astype(np.float32)

    x = product(np.maximum(product(stored["table"][IDS[0]], "up"), 0), "down")
    x = product(product(x, "square"), "square")
    return product(product(x, "gemm") + stored["bias"], "table")


original = load(SOURCE)
float_weights, float_tensors = weights(original)
table, bias = float_tensors["table"], float_tensors["bias"]
expected = logits(SOURCE)
expect(np.allclose(forward(float_weights, table, bias), expected, atol=1e-6), "this script computes another function")
largest = np.abs(expected).max()
compared = 0
with scratch() as folder:
    folder = pathlib.Path(folder)
    cases = [
        (bits, group, flags)
        for bits in (2, 4, 8)
        for group in (16, 32, 64, 0)
        for flags in (["--asym"], ["--sym"], ["--sym", "--full-range"])
    ]
    for bits, group, flags in cases:
        out = folder / f"{bits}-{group}-{'-'.join(flags)}"
        run("quantize", SOURCE, "-o", out, "--format", "onnx", "--bits", bits, "--group-size", group, *flags)
        model = load(out / "small.onnx")
        kinds = [node.op_type for node in model.graph.node]
        expect(kinds.count("MatMulNBits") == 6 and "Gemm" not in kinds and "Transpose" not in kinds, out.name, "has", kinds)
        expect(len([t for t in model.graph.initializer if t.name.startswith("square")]) == (3 if flags == ["--asym"] else 2),
               out.name, "holds the weight that two nodes share more than once")
        expect(model.metadata_props[0].value == "as it is" and model.producer_name == "by hand", out.name, "lost metadata")
        got = logits(out / "small.onnx")
        want = forward(weights(model)[0], table, bias)
        expect(np.abs(got - want).max() < 1e-5 * largest, out.name, "differs by", np.abs(got - want).max())
        if bits == 8:
            expect(np.abs(got - expected).max() < 0.1 * largest, out.name, "is far from the float model")
        compared += 1

    # Tables of levels. Codes are those of ONNX Runtime's own quantizer where blocks end with rows; -0 is as good as 0.
    for quant_type, grid in enumerate(["fp4_bnb", "nf4"]):
        for flags in ([16, "--algorithm", "rtn"], [16, "--algorithm", "search"], [32, "--algorithm", "rtn"], [0, "--algorithm", "rtn"],
                      [16, "--algorithm", "gptq", "--calib", DATA / "small.npz", "--ort", sys.prefix]):
            out = folder / f"{grid}-{flags[0]}-{flags[2]}"
            run("quantize", SOURCE, "-o", out, "--format", "onnx", "--grid", grid, "--group-size", *flags)
            model = load(out / "small.onnx")
            kinds = [node.op_type for node in model.graph.node]
            expect(kinds.count("MatMulBnb4") == 6 and "Gemm" not in kinds, out.name, "has", kinds)
            values = weights(model)[0]
            values["/layers.2/Gemm"] = next(value for name, value in values.items() if name not in float_weights)
            got = logits(out / "small.onnx")
            want = forward(values, table, bias)
            expect(np.abs(got - want).max() < 1e-5 * largest, out.name, "differs by", np.abs(got - want).max())
            expect(np.abs(got - expected).max() < 0.5 * largest, out.name, "is far from the float model")
            compared += 1
            if flags[2] != "rtn" or flags[0] == 0:
                continue
            theirs = MatMulBnb4Quantizer(onnx.load(SOURCE), quant_type, flags[0])
            theirs.process()
            theirs = {name.removesuffix("_Bnb4"): value for name, value in weights(theirs.model.model)[0].items() if name.endswith("_Bnb4")}
            same = [name for name in theirs if values[name].shape[1] % flags[0] == 0]
            expect(len(same) >= 3, "ONNX Runtime's quantizer quantizes", same)
            for name in same:
                expect(np.array_equal(values[name], theirs[name]), out.name, name, "is not what ONNX Runtime's quantizer makes of it")

    kept = folder / "kept"
    run("quantize", SOURCE, "-o", kept, "--format", "onnx", "--bits", 4, "--group-size", 32, "--no-last-matmul", "--skip", "/layers.1/",
        "--rule", ".*down:bits=8,group=16")
    model = load(kept / "small.onnx")
    nodes = {node.name: node for node in model.graph.node}
    expect(nodes["/head/MatMul"].op_type == "MatMul", "--no-last-matmul did not keep the head")
    expect(nodes["/layers.1/second/MatMul"].op_type == "MatMul", "--skip did not keep a weight of two nodes")
    expect(onnx.helper.get_node_attr_value(nodes["/layers.0/down/MatMul"], "bits") == 8, "--rule did not reach its node")

    embedded = folder / "embedded"
    run("quantize", SOURCE, "-o", embedded, "--format", "onnx", "--bits", 8, "--group-size", 32, "--embedding", "8:32")
    model = load(embedded / "small.onnx")
    expect("GatherBlockQuantized" in [node.op_type for node in model.graph.node], "--embedding 8 made no GatherBlockQuantized")
    difference = np.abs(logits(embedded / "small.onnx") - expected).max()
    expect(difference < 0.1 * largest, "with --embedding the output is off by", difference)

    fake = folder / "fake"
    run("quantize", SOURCE, "-o", fake, "--format", "onnx", "--bits", 3, "--group-size", 16, "--sym")
    model = load(fake / "small.onnx")
    values = weights(model)[0]["/layers.0/up/MatMul"]
    expect(all(len(np.unique(group)) <= 8 for group in values.reshape(-1, 16)), "3-bit floats lie on more than 8 levels")
    expect(np.allclose(logits(fake / "small.onnx"), forward(weights(model)[0], table, bias), atol=1e-6), "3-bit floats")

    for flags in (["--scheme", "W8A8"], ["--bits", 8, "--group-size", 0, "--act", "dynamic", "--asym"],
                  ["--bits", 8, "--granularity", "tensor", "--act", "dynamic", "--dynamic-ranges", "tensor"]):
        tensor_ranges = "--dynamic-ranges" in flags
        out = folder / f"dynamic-{len(list(folder.iterdir()))}"
        run("quantize", SOURCE, "-o", out, "--format", "onnx", *flags)
        model = load(out / "small.onnx")
        kinds = [node.op_type for node in model.graph.node]
        expect(kinds.count("MatMulInteger") == 6 and kinds.count("DynamicQuantizeLinear" if tensor_ranges else "ReduceMax") == 6, out.name, "has", kinds)
        got, want = logits(out / "small.onnx"), integer_forward(model, tensor_ranges)
        # An input on the edge between two codes may fall to either side.
        expect(np.abs(got - want).max() < 0.02 * largest, out.name, "differs by", np.abs(got - want).max() / largest)
        expect(np.abs(got - expected).max() < 0.15 * largest, out.name, "is far from the float model:", np.abs(got - expected).max() / largest)
        compared += 1

    for bits, group, flags in [(4, 16, ["--asym"]), (4, 32, ["--sym"]), (8, 16, ["--asym"]), (8, 0, ["--sym"]), (4, 0, ["--asym"])]:
        name = f"qdq-{bits}-{group}-{'-'.join(flags)}"
        same = folder / f"same-{name}"
        for format, out in (("onnx-qdq", folder / name), ("onnx", same)):
            run("quantize", SOURCE, "-o", out, "--format", format, "--bits", bits, "--group-size", group, *flags)
        model = load(folder / name / "small.onnx")
        expect([node.op_type for node in model.graph.node].count("DequantizeLinear") == 5, name, "lacks DequantizeLinear nodes")
        difference = np.abs(logits(folder / name / "small.onnx", "1") - logits(same / "small.onnx")).max()
        expect(difference < 1e-5 * largest, name, "differs from MatMulNBits by", difference)
        compared += 1
    # The graph is no decoder that nibble knows: ONNX Runtime runs it for the calibration.
    feeds = DATA / "small.npz"
    ids = np.load(feeds)["ids"]
    folders = folder / "feeds"
    folders.mkdir()
    for i, row in enumerate(ids):
        np.savez(folders / f"{i}.npz", ids=row[None].astype(np.int32))
    half = load(SOURCE)  # the same in half precision, its weights in another file
    for tensor in half.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    half.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    (folder / "half").mkdir()
    onnx.save(half, folder / "half" / "small.onnx", save_as_external_data=True, size_threshold=64)
    errors = {}
    for name, flags in {
        "rtn": ["--algorithm", "rtn"],
        "gptq": ["--algorithm", "gptq", "--calib", feeds, "--ort", sys.prefix],
        "folder": ["--algorithm", "gptq", "--calib", folders, "--ort", sys.prefix, "--memory", "1K"],
        "qdq": ["--algorithm", "gptq", "--calib", feeds, "--ort", sys.prefix, "--format", "onnx-qdq"],
        "half": ["--algorithm", "gptq", "--calib", feeds, "--ort", sys.prefix],
    }.items():
        out = folder / f"calibrated-{name}"
        format = [] if "--format" in flags else ["--format", "onnx"]
        source = folder / "half" / "small.onnx" if name == "half" else SOURCE
        result = run("quantize", source, "-o", out, "--bits", 4, "--group-size", 16, *format, *flags)
        if name != "rtn":
            expect(result["calibration"]["samples"] == len(ids), name, "ran on", result["calibration"])
            expect(result["calibration"]["engine"] == f"ONNX Runtime {onnxruntime.__version__}", name, "by", result["calibration"])
        got = [logits(out / "small.onnx", "1" if name == "qdq" else None, row[None]) for row in ids]
        want = [logits(SOURCE, None, row[None]) for row in ids]
        errors[name] = sum(float(np.square(a - b).sum()) for a, b in zip(got, want)) / sum(float(np.square(b).sum()) for b in want)
    expect(errors["gptq"] < 0.8 * errors["rtn"], "gptq is no better than rtn:", errors)
    expect(errors["half"] < 0.8 * errors["rtn"], "gptq of half precision is no better than rtn:", errors)
    expect(abs(errors["folder"] / errors["gptq"] - 1) < 1e-3, "a folder of samples gives something else than a batch:", errors)
    expect(abs(errors["qdq"] / errors["gptq"] - 1) < 1e-3, "DequantizeLinear gives something else than MatMulNBits:", errors)
    compared += len(errors)

    # 4-bit DequantizeLinear needs opset 21: an older graph is raised, and ReduceMean's axes become an input on the way.
    older = onnx.load(SOURCE)
    older.opset_import[0].version, older.ir_version = 17, 8
    at = [node.name for node in older.graph.node].index("/Reshape")
    older.graph.node[at].input[0] = "shifted"
    older.graph.node.insert(at, onnx.helper.make_node("ReduceMean", ["again"], ["mean"], name="/mean", axes=[-1], keepdims=1))
    older.graph.node.insert(at + 1, onnx.helper.make_node("Add", ["again", "mean"], ["shifted"], name="/shift"))
    onnx.checker.check_model(older, full_check=True)
    onnx.save(older, folder / "older.onnx")
    found = {}
    for format in ("onnx", "onnx-qdq"):
        run("quantize", folder / "older.onnx", "-o", folder / f"older-{format}", "--format", format, "--bits", 4, "--group-size", 16)
        model = load(folder / f"older-{format}" / "older.onnx")
        expect(model.opset_import[0].version == (21 if format == "onnx-qdq" else 17), format, "has opset", model.opset_import[0].version)
        found[format] = logits(folder / f"older-{format}" / "older.onnx", "1")
    expect(np.abs(found["onnx"] - found["onnx-qdq"]).max() < 1e-5 * largest, "raising the opset changed the function")
    compared += 2
print(f"check_onnx: {compared} graphs agree")
