"""Orders: sorting, the largest, sums along an order, what is not zero."""

from __future__ import annotations

import torch
from torch import Tensor

from .table import integer, operator


@operator("argsort")
def argsort(x: Tensor, axis: Tensor | int = -1, ascending: Tensor | bool = False) -> Tensor:
    """Indices in the order of the values; equal values keep their order."""
    return _order(x, integer(axis), not ascending).to(torch.int32)


def _order(x: Tensor, axis: int, descending: bool) -> Tensor:
    return torch.sort(x, dim=axis, descending=descending, stable=True).indices


@operator("topk")
def topk(
    x: Tensor,
    k: Tensor | int = 1,
    axis: Tensor | int = -1,
    ascending: Tensor | bool = False,
    sort: Tensor | bool = True,
    return_indices: Tensor | bool = True,
    output_indices_dtype: str = "int32",
) -> list[Tensor]:
    """The ``k`` largest (or, ascending, smallest) values along ``axis``, and where they are.

    Where no order is asked for, ours is by value, too. -1 takes all.
    """
    place, count = integer(axis), integer(k)
    order = _order(x, place, not ascending)
    chosen = order if count == -1 else order.narrow(place, 0, count)
    values = x.take_along_dim(chosen, place)
    return [values, chosen.to(torch.int32)] if return_indices else [values]


@operator("cumsum")
def cumsum(
    x: Tensor,
    axis: Tensor | int = 0,
    exclusive: Tensor | bool = False,
    reverse: Tensor | bool = False,
) -> Tensor:
    """Running sums along ``axis``; exclusive ones leave the element itself out."""
    place = integer(axis)
    given = x.flip(place) if reverse else x
    sums = given.cumsum(place).to(x.dtype)
    if exclusive:
        sums = torch.cat([torch.zeros_like(sums.narrow(place, 0, 1)), sums], place)
        sums = sums.narrow(place, 0, x.shape[place])
    return sums.flip(place) if reverse else sums


@operator("non_zero")
def non_zero(x: Tensor) -> Tensor:
    """The coordinates of what is not zero, one place a row, in row-major order."""
    return x.nonzero().to(torch.int32)
