"""Enlarge a map by repeating pixels with a product that broadcasts."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from .base import Pass
from .surgery import add_constant, call, copy_graph, is_op, rebuild, supersede

aten = torch.ops.aten
NEAREST = (aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default)


class RepeatByBroadcast(Pass):
    """Replace nearest upsampling, which XNNPACK lacks, by a product with ones.

    Rules:
        1. upsample_nearest2d(x) by whole factors a and b -> with channels last, view x as
           (N*h, 1, w, 1, C), multiply by ones of (1, a, 1, b, 1), view as (N, a*h, b*w, C).
           A product with one gives the same bits. Channels last is how XNNPACK keeps maps,
           and C is the axis that it reads in a row.

    Must not touch factors that are not whole, symbolic sizes, and other types than float32
    (XNNPACK's). Requires nothing.
    """

    name = "repeat_by_broadcast"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        constants = dict(program.constants)
        specs = list(program.graph_signature.input_specs)
        ones: dict[tuple[int, int], Node] = {}
        for node in [n for n in module.graph.nodes if is_op(n, *NEAREST)]:
            factors = _factors(node)
            if factors is None:
                continue
            if factors not in ones:
                down, right = factors
                value = torch.ones(1, down, 1, right, 1)
                name = f"ones_{down}_{right}"
                ones[factors] = add_constant(module, specs, constants, name, value)
            _repeat(module.graph, node, ones[factors])
        return rebuild(program, module, constants=constants, inputs=specs)

    def ensures(self, program: ExportedProgram) -> str:
        left = [n.name for n in program.graph.nodes if is_op(n, *NEAREST) and _factors(n)]
        return f"{', '.join(left)} is still there" if left else ""


def _factors(node: Node) -> tuple[int, int] | None:
    """By how much the map grows downwards and to the right; None where no rule applies."""
    before, after = node.args[0].meta["val"], node.meta["val"]
    sizes = (*before.shape, *after.shape)
    if before.dtype != torch.float32 or not all(isinstance(size, int) for size in sizes):
        return None
    (h, w), (new_h, new_w) = before.shape[-2:], after.shape[-2:]
    return None if new_h % h or new_w % w else (new_h // h, new_w // w)


def _repeat(graph: Graph, node: Node, ones: Node) -> None:
    source = node.args[0]
    batch, channels, height, width = source.meta["val"].shape
    new_height, new_width = node.meta["val"].shape[-2:]
    with graph.inserting_before(node):
        last = call(graph, node, aten.permute.default, source, [0, 2, 3, 1])
        apart = [batch * height, 1, width, 1, channels]
        viewed = call(graph, node, aten.reshape.default, last, apart)
        repeated = call(graph, node, aten.mul.Tensor, viewed, ones)
        together = [batch, new_height, new_width, channels]
        whole = call(graph, node, aten.reshape.default, repeated, together)
        result = call(graph, node, aten.permute.default, whole, [0, 3, 1, 2])
    supersede(graph, node, result)
