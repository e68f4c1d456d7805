"""Take each part of a tensor with a slice of its own."""

from __future__ import annotations

import operator

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .base import Pass
from .surgery import call, copy_graph, is_op, rebuild, supersede

aten = torch.ops.aten
UNBIND = aten.unbind.int
SPLITS = (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)


class SliceInsteadOfSplit(Pass):
    """Replace split, chunk and unbind, which XNNPACK lacks, by slices, which it has.

    Rules:
        1. part i of split(x, sizes, dim) -> slice(x, dim, start_i, start_i + size_i), where
           start_i is the sum of the sizes before it.
        2. part i of unbind(x, dim) -> the slice from i to i + 1, viewed without that axis.

    Must not touch a split of a tensor with symbolic sizes: XNNPACK slices fixed sizes only.
    Parts that nobody uses are not taken. Requires nothing.
    """

    name = "slice_instead_of_split"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        for node in list(module.graph.nodes):
            if _matches(node):
                _slice(module.graph, node)
        module.graph.eliminate_dead_code()
        return rebuild(program, module)


def _matches(node: Node) -> bool:
    if not is_op(node, *SPLITS, UNBIND):
        return False
    return all(isinstance(size, int) for size in node.args[0].meta["val"].shape)


def _slice(graph: torch.fx.Graph, split: Node) -> None:
    source = split.args[0]
    unbound = split.target is UNBIND
    place = 1 if unbound else 2
    dim = split.args[place] if len(split.args) > place else split.kwargs.get("dim", 0)
    ends = [0]
    for part in split.meta["val"]:
        ends.append(ends[-1] + (1 if unbound else part.shape[dim]))
    for taken in [user for user in split.users if user.target is operator.getitem]:
        start, end = ends[taken.args[1]], ends[taken.args[1] + 1]
        with graph.inserting_before(taken):
            part = call(graph, taken, aten.slice.Tensor, source, dim, start, end)
            if unbound:
                shape = list(taken.meta["val"].shape)
                part = call(graph, taken, aten.reshape.default, part, shape)
        supersede(graph, taken, part)
