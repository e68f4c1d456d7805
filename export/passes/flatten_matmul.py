"""Bring batches of matrix products to the one batch axis that runtimes' kernels have."""

from __future__ import annotations

import math

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .base import Pass
from .surgery import call, copy_graph, is_op, rebuild, supersede

aten = torch.ops.aten
MATMUL = aten.matmul.default


class FlattenMatmul(Pass):
    """Write a product of two stacks of matrices as ``bmm``.

    Rules:
        1. matmul(a, b) of rank 4 or more, whose axes but the last two are equal -> bmm over
           all of them as one axis, viewed back afterwards. torch's own decomposition expands
           both to the common shape first, and a runtime copies them for it.

    Must not touch products that broadcast, products of rank 3 or less, and symbolic sizes.
    Requires nothing.
    """

    name = "flatten_matmul"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        for node in list(module.graph.find_nodes(op="call_function", target=MATMUL)):
            if _matches(node):
                _flatten(module.graph, node)
        return rebuild(program, module)

    def ensures(self, program: ExportedProgram) -> str:
        left = [n.name for n in program.graph.nodes if is_op(n, MATMUL) and _matches(n)]
        return f"{', '.join(left)} is still there" if left else ""


def _matches(node: Node) -> bool:
    a, b = (list(value.meta["val"].shape) for value in node.args[:2])
    if not all(isinstance(size, int) for size in (*a, *b)):
        return False
    return len(a) > 3 and a[:-2] == b[:-2]


def _flatten(graph: torch.fx.Graph, node: Node) -> None:
    batch = math.prod(node.meta["val"].shape[:-2])
    with graph.inserting_before(node):
        flat = [
            call(graph, node, aten.reshape.default, v, [batch, *v.meta["val"].shape[-2:]])
            for v in node.args[:2]
        ]
        product = call(graph, node, aten.bmm.default, *flat)
        shape = list(node.meta["val"].shape)
        result = call(graph, node, aten.reshape.default, product, shape)
    supersede(graph, node, result)
