"""Turn products with a constant matrix into ``Linear`` nodes.

Requires: nodes in order, constants by name. Ensures: the same results. Rules:

* ``MatMul(x, W)``, W a constant of rank 2         -> ``Linear(x, Wᵀ)``
* ``Gemm(x, W, b)`` with alpha = beta = 1, transA = 0, b constant of rank 1 and full
  length, or absent                                -> ``Linear(x, Wᵀ or W, b)``
* ``Add(Linear(x, W), b)``, b as above             -> ``Linear(x, W, b)``

Wᵀ is stored where every use of W wants it so, else the node says ``transpose``. Must not
touch: an Add whose product somebody else reads; integer matrices.

Why: the accelerators behind XNNPACK and Core ML take a linear layer whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from .onnx_ops import Node


def form_linear(
    nodes: Iterable[Node], constants: Mapping[str, np.ndarray], outputs: Iterable[str]
) -> tuple[list[Node], dict[str, np.ndarray]]:
    """The nodes and constants after the rules above; ``outputs`` are the graph's."""
    rewritten = [as_linear(node, constants) for node in nodes]
    rewritten = join_bias(rewritten, constants, set(outputs))
    return store_transposed(rewritten, constants, set(outputs))


def is_matrix(name: str, constants: Mapping[str, np.ndarray]) -> bool:
    array = constants.get(name)
    return array is not None and array.ndim == 2 and array.dtype.kind not in "biu"


def is_bias(name: str, weight: Node, constants: Mapping[str, np.ndarray]) -> bool:
    array = constants.get(name)
    width = constants[weight.inputs[1]].shape[1 if weight.get("transpose") else 0]
    return array is not None and array.shape == (width,)


def as_linear(node: Node, constants: Mapping[str, np.ndarray]) -> Node:
    """A MatMul or Gemm as a Linear node, where the rules allow it; else the node."""
    if len(node.inputs) < 2 or not is_matrix(node.inputs[1], constants):
        return node
    if node.op == "MatMul":
        return replace(node, op="Linear", attributes={"transpose": 1})
    plain = (node.get("alpha", 1.0), node.get("beta", 1.0), node.get("transA", 0)) == (1, 1, 0)
    if node.op != "Gemm" or not plain:
        return node
    linear = replace(node, op="Linear", attributes={"transpose": 1 - node.get("transB", 0)})
    bias = node.inputs[2:3]
    return linear if not any(bias) or is_bias(bias[0], linear, constants) else node


def join_bias(
    nodes: list[Node], constants: Mapping[str, np.ndarray], outputs: set[str]
) -> list[Node]:
    """Take a constant Add into the Linear node whose only reader it is."""
    readers: dict[str, int] = {}
    for node in nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    made_by = {node.outputs[0]: i for i, node in enumerate(nodes) if node.op == "Linear"}
    result: list[Node | None] = list(nodes)
    for i, node in enumerate(nodes):
        if node.op != "Add" or len(node.inputs) != 2:
            continue
        for value, bias in (node.inputs, node.inputs[::-1]):
            linear = nodes[made_by[value]] if value in made_by else None
            if linear is None or any(linear.inputs[2:]) or readers[value] != 1:
                continue
            if value not in outputs and is_bias(bias, linear, constants):
                inputs = (*linear.inputs[:2], bias)
                result[made_by[value]] = replace(linear, inputs=inputs, outputs=node.outputs)
                result[i] = None
                break
    return [node for node in result if node is not None]


def store_transposed(
    nodes: list[Node], constants: Mapping[str, np.ndarray], outputs: set[str]
) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Transpose the matrices that only Linear nodes read, all of them transposed."""
    kept = set(outputs)
    wanted: set[str] = set()
    for node in nodes:
        turned = node.op == "Linear" and node.get("transpose")
        for position, name in enumerate(node.inputs):
            (wanted if turned and position == 1 else kept).add(name)
    turn = wanted - kept
    stored = {n: np.ascontiguousarray(a.T) if n in turn else a for n, a in constants.items()}
    renewed = [
        replace(node, attributes={}) if node.op == "Linear" and node.inputs[1] in turn else node
        for node in nodes
    ]
    return renewed, stored
