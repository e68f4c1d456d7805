"""Cut a map with a slice where the network gathers its first rows by index."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .base import Pass
from .surgery import copy_graph, is_op, rebuild

aten = torch.ops.aten


class SliceInsteadOfGather(Pass):
    """Replace a gather of a range by the slice that it is.

    A network whose size is dynamic may not slice what torch.export cannot prove to be large
    enough, so it gathers (:func:`edgekit.models.layers.crop`). Once captured, nothing is left
    to prove, and every runtime cuts faster than it gathers.

    Rules:
        1. index_select(x, dim, arange(n)) becomes slice(x, dim, 0, n).

    Must not touch ranges that start elsewhere than at 0, have a step, or are computed.
    Requires nothing. The result is not to be traced again: tracing asks for the proof.
    """

    name = "slice_instead_of_gather"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        operator = aten.index_select.default
        for node in module.graph.find_nodes(op="call_function", target=operator):
            source, axis, index = node.args
            if is_op(index, aten.arange.default):
                node.target, node.args = aten.slice.Tensor, (source, axis, 0, _count(index))
        module.graph.eliminate_dead_code()
        return rebuild(program, module)


def _count(arange: Node) -> object:
    return arange.args[0]
