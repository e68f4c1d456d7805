"""Operators on two tensors, element by element, with NumPy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from .table import is_float, operator

_PLAIN: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "add": torch.add,
    "equal": torch.eq,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,  # the sign of the divisor, as Python's
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "sub": torch.sub,
}


def _enter(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    def plain(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    operator(name)(plain)


for _name, _function in _PLAIN.items():
    _enter(_name, _function)


@operator("floor_div")
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """The quotient, rounded towards negative infinity."""
    return torch.div(x, y, rounding_mode="floor")


@operator("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """The quotient; integers give an integer, as the declared type of the result says."""
    if is_float(x) or is_float(y):
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


@operator("select")
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a`` where ``cond`` holds, elsewhere ``b``."""
    return torch.where(cond, a, b)
