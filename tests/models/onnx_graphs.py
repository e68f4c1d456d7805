"""ONNX graphs made for the tests, and what ONNX Runtime says about them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

from edgekit.metrics import compare
from edgekit.models.sources.onnx_module import OnnxModule

NMSE = 1e-9


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape, dtype=np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.abs(random(*shape)) + np.float32(0.1)


def unit(*shape: int) -> np.ndarray:
    return np.tanh(random(*shape)) * np.float32(0.9)


def whole(*shape: int, low: int = -9, high: int = 9) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(low, high, shape)


def i64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def make_model(nodes: list, feeds: dict, constants: dict, outputs: list[str], opset: int):
    """A checked model; inputs named in ``feeds``, the rest of the arrays initializers."""
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    initializers = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "g", infos, results, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = min(model.ir_version, 10)
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.output]}
    for result in model.graph.output:
        result.CopyFrom(known.get(result.name, result))
    return model


def run_reference(model, feeds: dict) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def arrays(result) -> list[np.ndarray]:
    return [t.detach().numpy() for t in (result if isinstance(result, tuple) else (result,))]


def tensors(feeds: dict) -> tuple:
    return tuple(torch.from_numpy(a.copy()) for a in feeds.values())


def assert_close(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert compare(ours, theirs).nmse < NMSE


def capture(module: OnnxModule, feeds: dict, dynamic=None) -> torch.export.ExportedProgram:
    return torch.export.export(module, tensors(feeds), strict=False, dynamic_shapes=dynamic)


class Case:
    """One node: inputs that arrive at run time, then those that are constants."""

    def __init__(self, op, *feeds, constants=(), opset=18, outputs=1, tag="", **attributes):
        self.op, self.opset, self.tag = op, opset, tag
        arrays_ = [*feeds, *constants]
        names = ["" if a is None else f"i{k}" for k, a in enumerate(arrays_)]
        named = [(n, a) for n, a in zip(names, arrays_, strict=True)]
        self.feeds = {n: a for n, a in named[: len(feeds)] if n}
        self.constants = {n: a for n, a in named[len(feeds) :] if n}
        self.outputs = [f"o{k}" for k in range(outputs)]
        self.nodes = [helper.make_node(op, names, self.outputs, name=f"the {op}", **attributes)]

    def model(self):
        return make_model(self.nodes, self.feeds, self.constants, self.outputs, self.opset)

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}{'-' + self.tag if self.tag else ''}"
