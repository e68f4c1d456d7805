"""Reading at computed places.

From iOS 17 on an index that is negative or too large is undefined (but safe). What is read
there is marked by NaN, or by the smallest integer: harmless where the program does not use
it, and seen by the comparison where it does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .table import integer, is_float, operator


def inside(indices: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    """Indices that can be used, and where they cannot (None if nowhere)."""
    plain = indices.long()
    wrong = (plain < 0) | (plain >= size)
    return (plain.masked_fill(wrong, 0), wrong) if bool(wrong.any()) else (plain, None)


def undefined(values: Tensor, where: Tensor | None) -> Tensor:
    """``values`` with what cannot be relied on marked."""
    if where is None:
        return values
    mark = torch.nan if is_float(values) else torch.iinfo(values.dtype).min
    return values.masked_fill(where, mark)


@operator("gather")
def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,
) -> Tensor:
    """Slices of ``x`` along ``axis``; the first ``batch_dims`` axes of both go in step."""
    batches, place = integer(batch_dims), integer(axis) % x.ndim
    chosen, wrong = inside(indices, x.shape[place])
    if not batches:
        # The axes of the indices take the place of the axis they read.
        taken = x.index_select(place, chosen.reshape(-1))
        result = taken.reshape((*x.shape[:place], *chosen.shape, *x.shape[place + 1 :]))
    else:
        shared = x.shape[:batches]
        flat_x, flat = (
            x.reshape(-1, *x.shape[batches:]),
            chosen.reshape(-1, *chosen.shape[batches:]),
        )
        pairs = [gather(a, b, place - batches) for a, b in zip(flat_x, flat, strict=True)]
        result = torch.stack(pairs)
        result = result.reshape(*shared, *result.shape[1:])
    if wrong is None:
        return result
    after = [1] * (x.ndim - place - 1)
    shape = [*wrong.shape[:batches], *[1] * (place - batches), *wrong.shape[batches:], *after]
    return undefined(result, wrong.reshape(shape).expand_as(result))


@operator("gather_along_axis")
def gather_along_axis(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    validate_indices: Tensor | bool = False,
) -> Tensor:
    """One element of ``x`` for every index, along ``axis``; the other axes go in step."""
    place = integer(axis) % x.ndim
    chosen, wrong = inside(indices, x.shape[place])
    return undefined(torch.take_along_dim(x, chosen, place), wrong)


@operator("gather_nd")
def gather_nd(
    x: Tensor,
    indices: Tensor,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,
) -> Tensor:
    """Slices of ``x`` at places whose coordinates are the last axis of ``indices``."""
    batches, depth = integer(batch_dims), indices.shape[-1]
    chosen, wrong = [], None
    for part in range(depth):
        usable, bad = inside(indices[..., part], x.shape[batches + part])
        chosen.append(usable)
        if bad is not None:
            wrong = bad if wrong is None else wrong | bad
    rest = [1] * (indices.ndim - 1 - batches)
    leading = [
        torch.arange(size).reshape([1] * axis + [-1] + [1] * (batches - axis - 1) + rest)
        for axis, size in enumerate(x.shape[:batches])
    ]
    result = x[(*leading, *chosen)]
    if wrong is None:
        return result
    return undefined(
        result, wrong.reshape(*wrong.shape, *[1] * (result.ndim - wrong.ndim)).expand_as(result)
    )
