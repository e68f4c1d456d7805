"""Operators on one tensor, element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from .table import operator, unknown_form

_PLAIN: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,  # halves to even, as NumPy does in Apple's definition
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}


def _enter(name: str, function: Callable[[Tensor], Tensor]) -> None:
    def plain(x: Tensor) -> Tensor:
        return function(x)

    operator(name)(plain)


for _name, _function in _PLAIN.items():
    _enter(_name, _function)


@operator("identity")
def identity(x: Tensor) -> Tensor:
    """The same value under another name."""
    return x


@operator("clip")
def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Values below ``alpha`` become ``alpha``, above ``beta`` ``beta``."""
    return torch.minimum(torch.maximum(x, alpha), beta)


@operator("threshold")
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    """A lower bound."""
    return torch.maximum(x, alpha)


@operator("inverse")
def inverse(x: Tensor, epsilon: Tensor | float = 1e-4) -> Tensor:
    """1 / (x + epsilon)."""
    return 1 / (x + epsilon)


@operator("log")
def log(x: Tensor, epsilon: Tensor | float = 1e-45) -> Tensor:
    """Natural logarithm of x + epsilon."""
    return torch.log(x + epsilon)


@operator("rsqrt")
def rsqrt(x: Tensor, epsilon: Tensor | float = 1e-12) -> Tensor:
    """1 / sqrt(x + epsilon)."""
    return torch.rsqrt(x + epsilon)


@operator("cast")
def cast(x: Tensor, dtype: str) -> Tensor:
    """To another type; a fraction is cut off, not rounded, and anything but zero is True.

    Rounding to fp16 is the interpreter's, as for every operator.
    """
    if dtype in ("fp16", "fp32"):
        return x.to(torch.float32)
    if dtype == "bool":
        return x != 0
    plain = {
        "int8": torch.int8,
        "int16": torch.int16,
        "int32": torch.int32,
        "uint8": torch.uint8,
        "uint16": torch.int32,  # held in the wider type
    }
    if dtype not in plain:
        raise unknown_form("cast", f"the type {dtype}")
    return x.to(plain[dtype])
