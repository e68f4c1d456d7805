"""Slices of a tensor, and tensors with a slice replaced."""

from __future__ import annotations

import torch
from torch import Tensor

from .table import flags, integers, operator

# The places of every axis that a slice takes, and the axes that it removes.
_Places = tuple[list[Tensor], list[int]]


def _places(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None,
    begin_mask: Tensor | None,
    end_mask: Tensor | None,
    squeeze_mask: Tensor | None,
) -> _Places:
    rank = x.ndim
    steps = integers(stride) if stride is not None else [1] * rank
    first = [
        None if off else at
        for at, off in zip(integers(begin), flags(begin_mask, rank), strict=True)
    ]
    last = [
        None if off else at for at, off in zip(integers(end), flags(end_mask, rank), strict=True)
    ]
    single = flags(squeeze_mask, rank)
    places = []
    for axis, size in enumerate(x.shape):
        if single[axis]:
            at = first[axis] or 0
            places.append(torch.tensor([at + size if at < 0 else at]))
        else:
            found = range(*slice(first[axis], last[axis], steps[axis]).indices(size))
            places.append(torch.tensor(found, dtype=torch.int64))
    return places, [axis for axis in range(rank) if single[axis]]


@operator("slice_by_index")
def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """``x[begin:end:stride, …]`` as NumPy's; a mask leaves a bound out or picks one place."""
    places, gone = _places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, chosen in enumerate(places):
        if not torch.equal(chosen, torch.arange(x.shape[axis])):
            x = x.index_select(axis, chosen)
    return x.squeeze(gone) if gone else x


@operator("slice_update")
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """``x`` with the slice that :func:`slice_by_index` would take replaced by ``update``."""
    places, _ = _places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    result = x.clone()
    result[torch.meshgrid(*places, indexing="ij")] = update.reshape([len(p) for p in places])
    return result


@operator("slice_by_size")
def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """``size`` elements of each axis from ``begin``; -1 takes all that follow."""
    for axis, (at, count) in enumerate(zip(integers(begin), integers(size), strict=True)):
        start = at + x.shape[axis] if at < 0 else at
        x = x.narrow(axis, start, x.shape[axis] - start if count == -1 else count)
    return x
