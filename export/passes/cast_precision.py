"""Sixteen-bit floating point: the whole graph in fp16 or bf16, its contract unchanged."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.fx import Graph

from edgekit.errors import UnsupportedError

from ..program import Program
from .surgery import rename_user_inputs

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

_WITHOUT_BF16 = (torch.ops.aten.hardswish.default, torch.ops.aten.hardsigmoid.default)

# Several targets may want the same program in the same precision.
_cast: WeakKeyDictionary[object, dict[str, Program]] = WeakKeyDictionary()


class CastGraph(nn.Module):
    """Runs ``inner`` in ``dtype`` between floating-point inputs and outputs of other types."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype, outputs: Sequence[str]) -> None:
        super().__init__()
        self.model = inner.to(dtype)
        self._dtype = dtype
        self._outputs = [getattr(torch, name) for name in outputs]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cast = [t.to(self._dtype) if t.is_floating_point() else t for t in tensors]
        results = self.model(*cast)
        return tuple(r.to(dtype) for r, dtype in zip(results, self._outputs, strict=True))


def cast_precision(program: Program, precision: str) -> Program:
    """The program with weights and arithmetic in ``precision``.

    Rules:
        1. Every floating-point weight and constant becomes ``precision``.
        2. Floating-point inputs are cast on entry and outputs on exit.
        3. In bf16, hard swish and hard sigmoid become clamps, which TensorRT has in bf16.

    Must not touch types that the network itself states (``x.float()`` before a softmax).
    The graph is traced again, so that every node's type follows from the weights'.

    Args:
        precision: ``fp32`` (returns the program itself), ``fp16`` or ``bf16``.

    Raises:
        UnsupportedError: ``precision`` is not a floating-point type, or the network states
            types that do not go together in it.
    """
    if precision == program.precision:
        return program
    if precision not in DTYPES:
        raise UnsupportedError(
            f"precision {precision} is not available",
            f"this version exports fp32, {', '.join(DTYPES)}",
        )
    found = _cast.setdefault(program.exported, {})
    if precision not in found:
        found[precision] = _retrace(program, precision)
    return found[precision]


def _retrace(program: Program, precision: str) -> Program:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A copy: Module.to would change the program's weights, which are the network's.
            inner = copy.deepcopy(program.exported.module())
            outer = CastGraph(inner, DTYPES[precision], [spec.dtype for spec in program.outputs])
            exported = torch.export.export(
                outer, program.example_inputs(), dynamic_shapes=_shapes(program), strict=False
            )
            _copy_origins(program.exported.graph, exported.graph)
            exported = exported.run_decompositions(_table(precision))
    except Exception as error:
        raise UnsupportedError(
            f"the network does not trace in {precision}", f"{type(error).__name__}: {error}"
        ) from error
    names = [spec.name for spec in program.inputs]
    return replace(program, exported=rename_user_inputs(exported, names), precision=precision)


def _copy_origins(before: Graph, after: Graph) -> None:
    """Give each node of the new trace the module path and source line of the one it repeats.

    The new graph has the old one's calls in the old one's order, and casts between them.
    """
    rest = iter(after.nodes)
    for old in before.nodes:
        if old.op != "call_function":
            continue
        for new in rest:
            if new.op == "call_function" and new.target == old.target:
                for key in ("nn_module_stack", "stack_trace"):
                    if key in old.meta:
                        new.meta[key] = old.meta[key]
                break


def _table(precision: str) -> dict:
    if precision != "bf16":
        return {}
    table = torch.export.default_decompositions()
    return {operator: table[operator] for operator in _WITHOUT_BF16}


def _shapes(program: Program) -> tuple | None:
    if not program.dynamic:
        return None
    dim = torch.export.Dim

    def size(axis: int | str) -> object:
        if isinstance(axis, int):
            return dim.STATIC
        limits = program.dynamic[axis]
        return dim.DYNAMIC(min=limits.min, max=limits.max)

    # One tuple for the parameter `*tensors`.
    return (tuple(tuple(size(axis) for axis in spec.shape) for spec in program.inputs),)
