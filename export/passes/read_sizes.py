"""Read dynamic sizes off tensors instead of computing them."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from .base import Pass
from .surgery import copy_graph, is_op, rebuild

aten = torch.ops.aten
_VIEWS = (aten.view.default, aten.reshape.default)


class ReadSizes(Pass):
    """Replace arithmetic on dynamic sizes where a tensor already has the result as a side.

    torch.export computes ``(height - 1) // 16 + 1`` where the network asked a feature map for
    its height; coremltools divides sizes in floating point, and then has no size any more.

    Rules:
        1. A computed size that is a side of a tensor computed before becomes that side.
        2. The last computed size in the shape of a view becomes -1 (what is left over).

    Must not touch sizes that are read off a tensor already. A computed size that no tensor
    has stays; so do views with two of them.
    """

    name = "read_sizes"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        sides: dict[object, tuple[Node, int]] = {}
        for node in list(module.graph.nodes):
            if node.op == "output" or isinstance(node.meta.get("val"), torch.SymInt):
                continue
            if node.op == "call_function":
                _read(module.graph, node, sides)
                _leave_over(node)
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor):
                for axis, size in enumerate(value.shape):
                    if isinstance(size, torch.SymInt):
                        sides[size.node.expr] = (node, axis)
        module.graph.eliminate_dead_code()
        return rebuild(program, module)


def _computed(node: object) -> bool:
    """Whether ``node`` is a dynamic size that is calculated."""
    return (
        isinstance(node, Node)
        and isinstance(node.meta.get("val"), torch.SymInt)
        and not is_op(node, aten.sym_size.int)
    )


def _read(graph: Graph, node: Node, sides: dict[object, tuple[Node, int]]) -> None:
    def replace(argument: Node) -> Node:
        found = sides.get(argument.meta["val"].node.expr) if _computed(argument) else None
        if found is None:
            return argument
        with graph.inserting_before(node):
            read = graph.call_function(aten.sym_size.int, found)
        read.meta = dict(argument.meta)
        return read

    node.args = map_arg(node.args, replace)


def _leave_over(node: Node) -> None:
    if is_op(node, *_VIEWS):
        source, shape = node.args
        left = [axis for axis, size in enumerate(shape) if _computed(size)]
        if len(left) == 1 and -1 not in shape:
            node.args = (source, [-1 if axis in left else size for axis, size in enumerate(shape)])
