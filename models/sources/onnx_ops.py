"""What the ONNX operator files share: nodes, the two tables of operators, host values.

While a graph runs, a value is a ``torch.Tensor`` (an activation or a weight) or a NumPy
array, a **host value**, known while the graph is being captured: a constant, the shape of
a tensor, or what was computed from those alone. Shape arithmetic therefore leaves no trace
in the captured program. A dynamic axis is a ``torch.SymInt`` inside a NumPy array of
dtype ``object``: Python's operators do the arithmetic.

An operator is written once for tensors (``@operator``), and a second time in NumPy
(``@host_operator``) where exporters use it on shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from edgekit.errors import UnsupportedError

# TensorProto.DataType of the ONNX specification to the two libraries' types.
NUMPY_TYPES: dict[int, np.dtype] = {
    1: np.dtype("float32"),
    2: np.dtype("uint8"),
    3: np.dtype("int8"),
    4: np.dtype("uint16"),
    5: np.dtype("int16"),
    6: np.dtype("int32"),
    7: np.dtype("int64"),
    9: np.dtype("bool"),
    10: np.dtype("float16"),
    11: np.dtype("float64"),
    12: np.dtype("uint32"),
    13: np.dtype("uint64"),
}
TORCH_TYPES: dict[int, torch.dtype] = {
    **{code: getattr(torch, dtype.name) for code, dtype in NUMPY_TYPES.items()},
    16: torch.bfloat16,
}

# Host values larger than this are left to torch: no shape arithmetic is that long, and a
# few bytes of a damaged file must not ask for gigabytes.
HOST_LIMIT = 1 << 22

Value = torch.Tensor | np.ndarray
ALL = range(1 << 16)  # every position


@dataclass(frozen=True)
class Node:
    """One ONNX node; ``inputs`` has an empty name where an optional input is left out."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 0

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute, or ``default`` where the node does not give it."""
        return self.attributes.get(key, default)

    def wants(self, position: int) -> bool:
        """Whether the node's output at ``position`` is used."""
        return position < len(self.outputs) and self.outputs[position] != ""

    def refuse(self, why: str, next_step: str = "") -> UnsupportedError:
        """The error for a use of this operator that torch cannot express."""
        return UnsupportedError(f"ONNX node {self.name!r} ({self.op})", why, next_step)


@dataclass(frozen=True)
class Operator:
    """How a node's arguments are prepared before ``run(node, *arguments)``.

    Positions in ``host`` arrive as host values or None (anything else is refused);
    positions in ``raw`` arrive as whatever they are, a host value if there is the choice;
    all others arrive as tensors.
    """

    run: Callable[..., Any]
    host: Sequence[int] = ()
    raw: Sequence[int] = ()


OPERATORS: dict[str, Operator] = {}
HOST_OPERATORS: dict[str, Callable[..., Any]] = {}


def operator(*names: str, host: Sequence[int] = (), raw: Sequence[int] = ()) -> Callable:
    """Register a function as the torch form of the ONNX operators ``names``."""

    def register(function: Callable) -> Callable:
        for name in names:
            OPERATORS[name] = Operator(function, host, raw)
        return function

    return register


def host_operator(*names: str) -> Callable:
    """Register a function as the NumPy form; it may return NotImplemented."""

    def register(function: Callable) -> Callable:
        for name in names:
            HOST_OPERATORS[name] = function
        return function

    return register


def host_value(value: Any) -> np.ndarray:
    """A NumPy array from a result of NumPy or Python; symbolic numbers are kept."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    if not isinstance(value, np.ndarray):
        if not isinstance(value, torch.SymInt):
            return np.asarray(value)
        array = np.empty((), dtype=object)
        array[()] = value
        return array
    if any(isinstance(element, torch.SymInt) for element in value.flat):
        return value
    return value.astype(np.int64)


def shape_value(sizes: Sequence[int | torch.SymInt]) -> np.ndarray:
    """A tensor's sizes as a host value of rank 1."""
    array = np.empty(len(sizes), dtype=object)
    array[:] = list(sizes)
    return host_value(array)


def integers(value: np.ndarray) -> list[Any]:
    """The elements of a host value as Python integers (or SymInts), flattened."""
    return value.reshape(-1).tolist()


def literal(value: Value) -> torch.Tensor:
    """A tensor from a value: host values become constants of the captured program."""
    if isinstance(value, torch.Tensor):
        return value
    if value.dtype == object:
        parts = [torch.scalar_tensor(v, dtype=torch.int64) for v in value.flat]
        return torch.stack(parts).reshape(value.shape)
    return tensor_from_numpy(value)


def tensor_from_numpy(array: np.ndarray) -> torch.Tensor:
    """A tensor with its own memory; ``bfloat16`` arrives as the ml_dtypes extension type."""
    copy = np.array(array, order="C")
    if copy.dtype.name == "bfloat16":
        return torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copy)


def to_type(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``x.to(dtype)``, which would leave a node in the program even if nothing changes."""
    return x if x.dtype == dtype else x.to(dtype)


def is_scalar_beside(value: Value, other: Value) -> bool:
    """Whether ``value`` can be a plain number beside ``other`` without changing the shape."""
    return (
        isinstance(value, np.ndarray)
        and isinstance(other, torch.Tensor)
        and value.size == 1
        and value.ndim <= other.ndim
    )


def align(first: Value, second: Value) -> tuple[Any, Any]:
    """Two operands for one of torch's overloaded functions: tensors, or one plain number."""
    if is_scalar_beside(first, second):
        return first.item(), second
    if is_scalar_beside(second, first):
        return first, second.item()
    return literal(first), literal(second)


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front; IndexError if the tensor does not have it."""
    if not -rank <= axis < rank:
        raise IndexError(f"axis {axis} is outside a tensor of rank {rank}")
    return axis % rank if rank else 0


def product(sizes: Sequence[Any]) -> Any:
    """The product of sizes, symbolic ones included; 1 for none."""
    return math.prod(sizes)
