"""Remove operators that give back what they were given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .base import Pass, in_place_operators
from .surgery import copy_graph, rebuild

aten = torch.ops.aten
Size = int | torch.SymInt

# They exist for autograd, aliasing and memory layout, which a functional graph does not have.
_ALWAYS = (
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.feature_dropout.default,
)
# Without an effect if shape and type stay as they are.
_IF_SAME = (
    aten.expand.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.slice.Tensor,
    aten._to_copy.default,
    aten.to.dtype,
    aten.constant_pad_nd.default,
    aten.pad.default,
)
_PADS = (aten.constant_pad_nd.default, aten.pad.default)


class RemoveNoops(Pass):
    """Drop copies, aliases and reshapes to the same shape.

    Rules:
        1. alias, detach, clone, contiguous, lift_fresh_copy, dropout (captured in eval
           mode) -> their input.
        2. expand, view, reshape, slice, pad, to, whose result has the shape and type of
           their input -> their input. A slice of equal shape takes nothing.

    Must not touch a pad of equal shape that adds at one end what it takes at the other; a
    copy of an input that is an output (an output must not be an input); a
    copy that changes the memory layout (a view after it relies on that); a cast that
    changes the type; dropout that was captured in training mode; sizes that are
    equal only by name (symbolic sizes are compared as expressions).
    Requires a functional graph.
    """

    name = "remove_noops"

    def requires(self, program: ExportedProgram) -> str:
        found = in_place_operators(program)
        return f"{', '.join(found)} writes in place; run decompose first" if found else ""

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        for node in list(module.graph.nodes):
            if node.op == "call_function" and _is_noop(node):
                source = node.args[0]
                node.replace_all_uses_with(source)
                module.graph.erase_node(node)
        return rebuild(program, module)


def _is_noop(node: Node) -> bool:
    if node.target not in _ALWAYS and node.target not in _IF_SAME:
        return False
    source = node.args[0]
    if not isinstance(source, Node) or not isinstance(node.meta.get("val"), torch.Tensor):
        return False
    if node.target in (aten.dropout.default, aten.feature_dropout.default) and node.args[2]:
        return False
    if any(user.op == "output" for user in node.users) and source.op == "placeholder":
        return False
    before, after = source.meta.get("val"), node.meta["val"]
    if not isinstance(before, torch.Tensor):
        return False
    if node.target in _PADS and any(node.args[1]):
        return False
    same = _same(before.shape, after.shape) and _same(before.stride(), after.stride())
    return same and before.dtype == after.dtype


def _same(before: Sequence[Size], after: Sequence[Size]) -> bool:
    return len(before) == len(after) and all(map(_equal, before, after))


def _equal(a: Size, b: Size) -> bool:
    # Comparing symbolic sizes with == would add a guard to the graph.
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return a.node.expr == b.node.expr
