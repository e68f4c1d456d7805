"""Take each part of a tensor of dynamic size by its index."""

from __future__ import annotations

import operator

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .base import Pass
from .surgery import call, copy_graph, is_op, rebuild, supersede

aten = torch.ops.aten
UNBIND = aten.unbind.int


class SelectInsteadOfUnbind(Pass):
    """Replace unbind where a size of its tensor is dynamic.

    coremltools counts the parts by the size that it derived itself, and after views of a tensor
    with a dynamic axis it has forgotten sizes that the graph knows.

    Rule: part i of unbind(x, dim) -> select(x, dim, i).

    Must not touch an unbind of a tensor whose sizes are all fixed, which needs no help. Parts
    that nobody uses are not taken. Requires nothing.
    """

    name = "select_instead_of_unbind"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        for node in list(module.graph.nodes):
            if is_op(node, UNBIND) and not _fixed(node.args[0]):
                _select(module.graph, node)
        module.graph.eliminate_dead_code()
        return rebuild(program, module)


def _fixed(tensor: Node) -> bool:
    return all(isinstance(size, int) for size in tensor.meta["val"].shape)


def _select(graph: torch.fx.Graph, unbind: Node) -> None:
    source = unbind.args[0]
    dim = unbind.args[1] if len(unbind.args) > 1 else unbind.kwargs.get("dim", 0)
    for taken in [user for user in unbind.users if user.target is operator.getitem]:
        with graph.inserting_before(taken):
            part = call(graph, taken, aten.select.int, source, dim, taken.args[1])
        supersede(graph, taken, part)
