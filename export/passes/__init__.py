"""The passes over the common graph, in the order in which every model goes through them."""

from __future__ import annotations

from collections.abc import Callable

from ..program import Program
from .base import Pass, PassError
from .decompose import Decompose
from .fold_batchnorm import FoldBatchNorm
from .fold_constants import FoldConstants
from .remove_dead_code import RemoveDeadCode
from .remove_noops import RemoveNoops
from .rewrite_attention import RewriteAttention
from .rewrite_col2im import RewriteCol2im

# Weight arithmetic (standardised convolutions) is folded before batch norm looks for weights.
PIPELINE: tuple[type[Pass], ...] = (
    Decompose,
    RemoveNoops,
    RewriteAttention,
    RewriteCol2im,
    FoldConstants,
    RemoveDeadCode,
    FoldBatchNorm,
    RemoveDeadCode,
)

__all__ = [
    "PIPELINE",
    "Decompose",
    "FoldBatchNorm",
    "FoldConstants",
    "Pass",
    "PassError",
    "RemoveDeadCode",
    "RemoveNoops",
    "RewriteAttention",
    "RewriteCol2im",
    "run_pipeline",
]


def run_pipeline(program: Program, on_pass: Callable[[str], None] = lambda name: None) -> Program:
    """All passes in order.

    Raises:
        PassError: a pass could not run or broke its promise.
    """
    exported = program.exported
    for step in PIPELINE:
        on_pass(step.name)
        exported = step()(exported)
    return program.with_exported(exported)
