"""Writes small.onnx: a hand-made graph with what nibble looks for in one (needs the packages onnx and numpy)."""
import pathlib

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

random = np.random.default_rng(1)


def constant(name, shape, dtype=np.float32):
    return numpy_helper.from_array((0.1 * random.standard_normal(shape)).astype(dtype), name)


table = constant("table", (20, 32))  # looked up, and transposed the head: stored once
nodes = [
    helper.make_node("Gather", ["table", "ids"], ["embedded"], name="/embed/Gather"),
    helper.make_node("MatMul", ["embedded", "up"], ["wide"], name="/layers.0/up/MatMul"),
    helper.make_node("Relu", ["wide"], ["active"], name="/layers.0/Relu"),
    helper.make_node("MatMul", ["active", "down"], ["narrow"], name="/layers.0/down/MatMul"),
    helper.make_node("MatMul", ["narrow", "square"], ["once"], name="/layers.1/first/MatMul"),
    helper.make_node("MatMul", ["once", "square"], ["again"], name="/layers.1/second/MatMul"),
    helper.make_node("Reshape", ["again", "flat"], ["rows"], name="/Reshape"),
    helper.make_node("Gemm", ["rows", "gemm", "bias"], ["biased"], name="/layers.2/Gemm", transB=1),
    helper.make_node("Transpose", ["table"], ["head"], name="/head/Transpose", perm=[1, 0]),
    helper.make_node("MatMul", ["biased", "head"], ["logits"], name="/head/MatMul"),
]
graph = helper.make_graph(
    nodes,
    "small",
    [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["tokens", 20])],
    [table, constant("up", (32, 48)), constant("down", (48, 32)), constant("square", (32, 32)), constant("gemm", (32, 32)), constant("bias", (32,)),
     numpy_helper.from_array(np.array([-1, 32], np.int64), "flat")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="by hand")
model.metadata_props.add(key="kept", value="as it is")
checker.check_model(model, full_check=True)
save(model, pathlib.Path(__file__).with_name("small.onnx"))
