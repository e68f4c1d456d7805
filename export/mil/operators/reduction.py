"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from .table import integer, integers, is_float, operator

_SEVERAL: Final[dict[str, Callable[..., Tensor]]] = {
    "reduce_l1_norm": lambda x, axes: x.abs().sum(axes, keepdim=True),
    "reduce_l2_norm": lambda x, axes: torch.sqrt(x.square().sum(axes, keepdim=True)),
    "reduce_log_sum": lambda x, axes: torch.log(x.sum(axes, keepdim=True)),
    "reduce_log_sum_exp": lambda x, axes: torch.logsumexp(x, axes, keepdim=True),
    "reduce_max": lambda x, axes: x.amax(axes, keepdim=True),
    "reduce_mean": lambda x, axes: _mean(x, axes),
    "reduce_min": lambda x, axes: x.amin(axes, keepdim=True),
    "reduce_prod": lambda x, axes: _product(x, axes),
    "reduce_sum": lambda x, axes: x.sum(axes, keepdim=True),
    "reduce_sum_square": lambda x, axes: x.square().sum(axes, keepdim=True),
}


def _enter(name: str, function: Callable[..., Tensor]) -> None:
    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
        given = integers(axes) if axes is not None else range(x.ndim)
        over = sorted(axis % x.ndim for axis in given)
        # torch sums integers in 64 bits; the result is of the input's type.
        result = function(x, over).to(x.dtype)
        return result if keep_dims else result.squeeze(over)

    operator(name)(reduce)


def _mean(x: Tensor, axes: list[int]) -> Tensor:
    return (x if is_float(x) else x.double()).mean(axes, keepdim=True)


def _product(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


for _name, _function in _SEVERAL.items():
    _enter(_name, _function)


@operator("reduce_argmax")
def reduce_argmax(
    x: Tensor,
    axis: Tensor | int = -1,
    keep_dims: Tensor | bool = False,
    output_dtype: str = "int32",
) -> Tensor:
    """The index of the largest value along ``axis``."""
    return x.argmax(integer(axis), keepdim=bool(keep_dims)).to(torch.int32)


@operator("reduce_argmin")
def reduce_argmin(
    x: Tensor,
    axis: Tensor | int = -1,
    keep_dims: Tensor | bool = False,
    output_dtype: str = "int32",
) -> Tensor:
    """The index of the smallest value along ``axis``."""
    return x.argmin(integer(axis), keepdim=bool(keep_dims)).to(torch.int32)
