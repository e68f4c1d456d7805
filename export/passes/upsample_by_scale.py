"""State by how much a map is enlarged where its size is dynamic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .base import Pass
from .surgery import copy_graph, rebuild

aten = torch.ops.aten

# The operators, and the position of their scales; the size always comes second.
_SCALES = {aten.upsample_nearest2d.vec: 2, aten.upsample_bilinear2d.vec: 3}


class UpsampleByScale(Pass):
    """Replace a computed output size by the factor it stands for.

    Rules:
        1. upsample(x, [k * h, k * w]) of a map with symbolic h or w becomes upsample(x, None,
           [k, k]), for a whole number k per side. A runtime that sizes its memory ahead
           takes a constant factor where it does not take a computed size.

    Must not touch fixed sizes, sizes that are no whole multiple of the input's, and a call
    that states its factors already.
    """

    name = "upsample_by_scale"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        for operator, place in _SCALES.items():
            for node in module.graph.find_nodes(op="call_function", target=operator):
                if (factors := _factors(node, place)) is not None:
                    kept = list(node.args[2:place])
                    node.args = (node.args[0], None, *kept, factors)
        module.graph.eliminate_dead_code()
        return rebuild(program, module)


def _factors(node: Node, place: int) -> list[float] | None:
    stated = node.args[place] if len(node.args) > place else None
    if stated is not None:
        return None
    before: Sequence = node.args[0].meta["val"].shape[-2:]
    after: Sequence = node.meta["val"].shape[-2:]
    if all(isinstance(size, int) for size in before):
        return None
    factors = [_ratio(new, old) for new, old in zip(after, before, strict=True)]
    return None if None in factors else factors


def _ratio(new: int | torch.SymInt, old: int | torch.SymInt) -> float | None:
    """How many times ``old`` makes ``new`` at every size, if that is a whole number."""
    if isinstance(new, int) and isinstance(old, int):
        return float(new // old) if new % old == 0 else None
    top, bottom = (
        size.node.expr if isinstance(size, torch.SymInt) else size for size in (new, old)
    )
    factor = (top / bottom).simplify()
    return float(factor) if factor.is_Integer and factor > 0 else None
