"""What XNNPACK lacks, expressed by what it has, so that a network stays in one piece."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from .base import Pass
from .expand_attention import ExpandAttention
from .flatten_matmul import FlattenMatmul
from .fold_constants import FoldConstants
from .normalize_by_means import NormalizeByMeans
from .remove_dead_code import RemoveDeadCode
from .repeat_by_broadcast import RepeatByBroadcast
from .slice_instead_of_split import SliceInsteadOfSplit
from .surgery import copy_graph, rebuild

_STEPS: tuple[type[Pass], ...] = (
    NormalizeByMeans,
    SliceInsteadOfSplit,
    ExpandAttention,
    FlattenMatmul,
    RepeatByBroadcast,
    FoldConstants,
    RemoveDeadCode,
)


def rewrite_for_xnnpack(program: ExportedProgram) -> ExportedProgram:
    """The program with fewer operators that XNNPACK's delegate has to leave out.

    Each operator that is left out splits the graph: what is before and after it become two
    delegates, between which maps are copied and turned from channels last to first and back.
    CPUBone-B0 was 40 delegates and is 1, which takes 1.1 ms off 11.9 (docs/performance.md).

    Rules: those of the passes, in their order. After them:
        1. A stored constant becomes a buffer: ExecuTorch cannot put a constant that several
           delegates use into any of them. So does a buffer that no checkpoint holds: XNNPACK's
           own rewriting of one-dimensional convolutions refuses it as a weight.
        2. No stored tensor has a stride of 0.
    """
    for step in _STEPS:
        program = step()(program)
    return _store_as_buffers(program)


def _store_as_buffers(program: ExportedProgram) -> ExportedProgram:
    state, constants, specs = dict(program.state_dict), dict(program.constants), []
    for spec in program.graph_signature.input_specs:
        unsaved = spec.kind is InputKind.BUFFER and not spec.persistent
        if unsaved or spec.kind is InputKind.CONSTANT_TENSOR:
            state[spec.target] = constants.pop(spec.target)
            spec = replace(spec, kind=InputKind.BUFFER, persistent=True)
        specs.append(spec)
    module = copy_graph(program)
    state = {name: _strided(tensor) for name, tensor in state.items()}
    for node in module.graph.find_nodes(op="placeholder"):
        if isinstance(node.meta.get("val"), torch.Tensor):
            node.meta["val"] = _strided(node.meta["val"])
    return rebuild(program, module, state=state, constants=constants, inputs=specs)


def _strided(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without a stride of 0, which an axis of length 1 may have."""
    if 0 not in tensor.stride():
        return tensor
    plain = tensor.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(plain, requires_grad=False)
    return plain
