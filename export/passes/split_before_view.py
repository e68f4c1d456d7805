"""Keep tensors within Core ML's five dimensions where attention splits q, k and v."""

from __future__ import annotations

import math
import operator

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from .base import Pass
from .surgery import call, copy_graph, is_op, rebuild

aten = torch.ops.aten
MAX_RANK = 5


class SplitBeforeView(Pass):
    """Take the parts of a tensor before it is viewed in more than five dimensions.

    Rules:
        1. view(x, [..., n, a, b]) of rank 6 or more -> permute -> unbind over n, where n*a*b
           is x's last axis: part i is x[..., i*a*b : (i+1)*a*b], viewed without n and
           permuted alike. (Windowed attention: q, k and v of one projection.)

    Must not touch lower ranks, views or permutations with a second user, and symbolic
    sizes on the axes involved.
    """

    name = "split_before_view"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        for unbind in list(module.graph.find_nodes(op="call_function", target=aten.unbind.int)):
            if _matches(unbind):
                _split(module.graph, unbind)
        module.graph.eliminate_dead_code()
        return rebuild(program, module)


def _matches(unbind: Node) -> bool:
    permute = unbind.args[0]
    if not is_op(permute, aten.permute.default) or len(permute.users) != 1:
        return False
    view = permute.args[0]
    if not is_op(view, aten.view.default, aten.reshape.default) or len(view.users) != 1:
        return False
    shape = list(view.meta["val"].shape)
    if len(shape) <= MAX_RANK:
        return False
    trailing = [*shape[_axis(unbind) :], view.args[0].meta["val"].shape[-1]]
    if not all(isinstance(size, int) for size in trailing):
        return False
    return math.prod(trailing[:-1]) == trailing[-1]


def _axis(unbind: Node) -> int:
    """The axis of the view that is unbound."""
    order = unbind.args[0].args[1]
    return order[unbind.args[1] if len(unbind.args) > 1 else 0]


def _split(graph: Graph, unbind: Node) -> None:
    permute = unbind.args[0]
    view = permute.args[0]
    source, axis = view.args[0], _axis(unbind)
    shape = list(view.meta["val"].shape)
    step = math.prod(shape[axis + 1 :])
    order = [index - (index > axis) for index in permute.args[1] if index != axis]
    for part in [user for user in unbind.users if user.target is operator.getitem]:
        start = part.args[1] * step
        with graph.inserting_before(part):
            taken = call(graph, part, aten.slice.Tensor, source, -1, start, start + step)
            laid = call(graph, part, aten.reshape.default, taken, shape[:axis] + shape[axis + 1 :])
            part.replace_all_uses_with(call(graph, part, aten.permute.default, laid, order))
