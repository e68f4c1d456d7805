"""The table of operators: MIL's name to the function that computes it.

Each function takes MIL's own parameters by name and follows Apple's definition of the
operator for iOS 17 and 18 (the reference is the documentation in coremltools, module
``converters.mil.mil.ops.defs``). Values are torch tensors; fp16 is held in fp32, and what
comes out is rounded by the interpreter, so that no function here asks for the precision.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from edgekit.errors import UnsupportedError

Compute = Callable[..., Any]

OPERATORS: Final[dict[str, Compute]] = {}


class UnknownOperatorError(UnsupportedError):
    """The interpreter does not know an operator, or not in this form."""


def operator(name: str) -> Callable[[Compute], Compute]:
    """Enter a function into the table under MIL's name."""

    def enter(function: Compute) -> Compute:
        OPERATORS[name] = function
        return function

    return enter


def check_known(kinds: Iterable[str]) -> None:
    """Raise UnknownOperatorError naming every operator that is not in the table."""
    if unknown := sorted(set(kinds) - OPERATORS.keys()):
        raise UnknownOperatorError(f"the interpreter does not know {', '.join(unknown)}")


def compute(kind: str, arguments: Mapping[str, Any]) -> Any:
    """Run one operator on its arguments.

    Raises:
        UnknownOperatorError: it has a parameter that the table's function does not know.
    """
    function = OPERATORS[kind]
    known = inspect.signature(function).parameters
    if strange := sorted(arguments.keys() - known.keys()):
        raise unknown_form(kind, f"the parameter {', '.join(strange)}")
    return function(**arguments)


def unknown_form(kind: str, what: str) -> UnknownOperatorError:
    """The error for a known operator with a mode or parameter that is not known."""
    return UnknownOperatorError(f"the interpreter does not know {kind} with {what}")


def integer(value: Tensor | int) -> int:
    """A scalar parameter."""
    return int(value)


def integers(value: Tensor) -> list[int]:
    """A parameter that is a vector of integers; a scalar counts as a vector of one."""
    return [int(item) for item in value.reshape(-1)]


def flags(value: Tensor | None, count: int) -> list[bool]:
    """A mask of ``count`` flags, all False where it is not given."""
    return [bool(item) for item in value.reshape(-1)] if value is not None else [False] * count


def several(values: Tensor | list[Tensor]) -> list[Tensor]:
    """A parameter of MIL that is a tuple; one of a single element is read as the element."""
    return list(values) if isinstance(values, list) else [values]


def along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector of shape (n,) so shaped that it broadcasts along ``axis`` of ``rank`` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def is_float(value: Tensor) -> bool:
    """Whether a value is of a floating-point type."""
    return value.dtype is torch.float32
