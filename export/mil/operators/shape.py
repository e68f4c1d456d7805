"""Operators that change a tensor's shape or order, and those that join and split."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .table import integer, integers, operator, several


@operator("shape")
def shape(x: Tensor) -> Tensor:
    """The sizes of ``x``."""
    return torch.tensor(x.shape, dtype=torch.int32)


@operator("reshape")
def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """The same elements in another shape.

    A size of -1 is what is left. A 0 stands for the size of the axis at the same place
    counted from the last, or 1 where ``x`` has none.
    """
    wanted = integers(shape)
    own = [1] * max(0, len(wanted) - x.ndim) + list(x.shape)
    sizes = [
        own[len(own) - len(wanted) + place] if size == 0 else size
        for place, size in enumerate(wanted)
    ]
    return x.reshape(sizes)


@operator("reshape_like")
def reshape_like(
    x: Tensor,
    ref_tensors: list[Tensor],
    begins: list[Tensor],
    ends: list[Tensor],
    end_masks: list[Tensor],
) -> Tensor:
    """In a shape that is put together from parts of other tensors' shapes."""
    sizes: list[int] = []
    parts = zip(*map(several, (ref_tensors, begins, ends, end_masks)), strict=True)
    for other, begin, end, to_the_end in parts:
        sizes += other.shape[integer(begin) : None if to_the_end else integer(end)]
    return x.reshape(sizes)


@operator("expand_dims")
def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    """New axes of size 1, at these places of the result."""
    given = integers(axes)
    rank = x.ndim + len(given)
    for axis in sorted(axis % rank for axis in given):
        x = x.unsqueeze(axis)
    return x


@operator("squeeze")
def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without these axes (all, if not given), of those that have size 1."""
    return x.squeeze(integers(axes) if axes is not None else list(range(x.ndim)))


@operator("transpose")
def transpose(x: Tensor, perm: Tensor) -> Tensor:
    """The axes in another order."""
    return x.permute(integers(perm))


@operator("flatten2d")
def flatten2d(x: Tensor, axis: Tensor | int = 1) -> Tensor:
    """Two axes: all before ``axis``, and all from it."""
    return x.reshape(math.prod(x.shape[: integer(axis)]), -1)


@operator("concat")
def concat(values: list[Tensor], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    """Joined along an axis, one after the other or element by element in turn.

    Scalars (sizes that were read off a shape) become the elements of a vector.
    """
    parts = [part if part.ndim else part.reshape(1) for part in several(values)]
    place = integer(axis)
    if not interleave:
        return torch.cat(parts, place)
    place %= parts[0].ndim
    return torch.stack(parts, place + 1).flatten(place, place + 1)


@operator("stack")
def stack(values: list[Tensor], axis: Tensor) -> Tensor:
    """Joined along a new axis."""
    return torch.stack(several(values), integer(axis))


@operator("split")
def split(
    x: Tensor,
    axis: Tensor,
    num_splits: Tensor | None = None,
    split_sizes: Tensor | None = None,
) -> list[Tensor]:
    """Cut along an axis, into equal parts or into parts of these sizes."""
    place = integer(axis)
    if split_sizes is not None:
        return list(x.split(integers(split_sizes), place))
    return list(x.split(x.shape[place] // integer(num_splits), place))


@operator("tile")
def tile(x: Tensor, reps: Tensor) -> Tensor:
    """Repeated along each axis."""
    return x.repeat(integers(reps))


@operator("reverse")
def reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """In reverse order along these axes (all, if not given)."""
    return x.flip(integers(axes) if axes is not None else list(range(x.ndim)))


@operator("reverse_sequence")
def reverse_sequence(
    x: Tensor, lengths: Tensor, seq_axis: Tensor | int = 0, batch_axis: Tensor | int = 0
) -> Tensor:
    """In each slice along ``batch_axis`` the first ``lengths[i]`` elements reversed."""
    places = x.movedim((integer(batch_axis), integer(seq_axis)), (0, 1)).clone()
    for index, length in enumerate(integers(lengths)):
        places[index, :length] = places[index, :length].flip(0)
    return places.movedim((0, 1), (integer(batch_axis), integer(seq_axis)))


@operator("sliding_windows")
def sliding_windows(x: Tensor, axis: Tensor, size: Tensor, stride: Tensor | int = 1) -> Tensor:
    """All windows of ``size`` along ``axis``; a window's elements are the axis after it."""
    place = integer(axis) % x.ndim
    return x.unfold(place, integer(size), integer(stride)).movedim(-1, place + 1)
