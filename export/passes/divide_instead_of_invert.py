"""Divide one by what a network takes the reciprocal of, or the reciprocal root."""

from __future__ import annotations

from typing import Final

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .base import Pass
from .surgery import add_constant, call, copy_graph, is_op, rebuild, supersede

aten = torch.ops.aten
_INVERSES: Final = (aten.reciprocal.default, aten.rsqrt.default)
_GUARD: Final = 1e-6  # beside which Core ML's 1e-12 moves the result by 5e-7 of it at most


class DivideInsteadOfInvert(Pass):
    """Write a reciprocal as a division.

    In an ML program ``inverse`` is 1 / (x + 1e-4) and ``rsqrt`` is 1 / sqrt(x + 1e-12), unless
    told otherwise, so that a quotient by something small comes out smaller than it is;
    ``real_div`` adds nothing.

    Rules:
        1. reciprocal(x) -> div(1, x), with a 1 of the result's type.
        2. rsqrt(x) -> div(1, sqrt(x)).

    Must not touch a division, and the root of a sum with a number of 1e-6 or more: it is what
    normalisations have, which coremltools knows by their pattern. Requires nothing.
    """

    name = "divide_instead_of_invert"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        specs = list(program.graph_signature.input_specs)
        constants = dict(program.constants)
        ones: dict[torch.dtype, Node] = {}
        for node in [n for n in module.graph.nodes if _adds(n)]:
            dtype = node.meta["val"].dtype
            if dtype not in ones:
                one, name = torch.ones((), dtype=dtype), f"one_{str(dtype).removeprefix('torch.')}"
                ones[dtype] = add_constant(module, specs, constants, name, one)
            _divide(module.graph, node, ones[dtype])
        return rebuild(program, module, constants=constants, inputs=specs)

    def ensures(self, program: ExportedProgram) -> str:
        left = [node.name for node in program.graph.nodes if _adds(node)]
        return f"{', '.join(left)} is still there" if left else ""


def _adds(node: Node) -> bool:
    """Whether Core ML's operator of this kind would compute something else."""
    if not is_op(node, *_INVERSES):
        return False
    of = node.args[0]
    guarded = is_op(node, aten.rsqrt.default) and is_op(of, aten.add.Tensor, aten.add.Scalar)
    return not (guarded and isinstance(of.args[1], (int, float)) and of.args[1] >= _GUARD)


def _divide(graph: torch.fx.Graph, node: Node, one: Node) -> None:
    below = node.args[0]
    with graph.inserting_before(node):
        if is_op(node, aten.rsqrt.default):
            below = call(graph, node, aten.sqrt.default, below)
        divided = call(graph, node, aten.div.Tensor, one, below)
    supersede(graph, node, divided)
