"""Choose between tensors, where a network chooses between numbers."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .base import Pass
from .surgery import call, copy_graph, is_op, rebuild, supersede

aten = torch.ops.aten
_CHOICES = (
    aten.where.self,
    aten.where.Scalar,
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
)


class ChooseFromTensors(Pass):
    """Give what a ``where`` chooses from the shape of its result.

    coremltools has a converter for ``where`` of tensors alone, and in an ML program a choice
    between two numbers has the shape of the first. Attention masks are such choices.

    Rules:
        1. where(condition, a, b) -> where(condition, 0 * condition + a, 0 * condition + b) for
           a and b that are numbers, or tensors of another shape than the result.

    Must not touch a choice whose condition has another shape than its result, or one between
    tensors that have the result's. Requires nothing.
    """

    name = "choose_from_tensors"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        for node in list(module.graph.nodes):
            if is_op(node, *_CHOICES) and _spread(node.args[0], node):
                _choose(module.graph, node)
        return rebuild(program, module)


def _spread(value: object, result: Node) -> bool:
    """Whether ``value`` is a tensor of the result's shape."""
    if not isinstance(value, Node):
        return False
    return tuple(value.meta["val"].shape) == tuple(result.meta["val"].shape)


def _choose(graph: torch.fx.Graph, node: Node) -> None:
    condition, *options = node.args
    if all(_spread(option, node) for option in options):
        return
    dtype = node.meta["val"].dtype
    with graph.inserting_before(node):
        plain = call(graph, node, aten.to.dtype, condition, dtype)
        zeros = call(graph, node, aten.mul.Tensor, plain, 0)
        wide = [
            option if _spread(option, node) else call(graph, node, aten.add.Tensor, zeros, option)
            for option in options
        ]
        chosen = call(graph, node, aten.where.self, condition, *wide)
    supersede(graph, node, chosen)
