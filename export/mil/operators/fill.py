"""Tensors made of a shape, a range or indices, and padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .table import integer, integers, operator, unknown_form


@operator("const")
def const(val: Tensor | str) -> Tensor | str:
    """A constant of the program."""
    return val


@operator("fill")
def fill(shape: Tensor, value: Tensor | float = 0.0) -> Tensor:
    """One value everywhere."""
    return torch.as_tensor(value).expand(integers(shape)).clone()


@operator("fill_like")
def fill_like(ref_tensor: Tensor, value: Tensor | float = 0.0) -> Tensor:
    """One value everywhere, in another tensor's shape."""
    return torch.as_tensor(value).expand(ref_tensor.shape).clone()


@operator("range_1d")
def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """From ``start`` in steps, ``end`` not included."""
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


@operator("one_hot")
def one_hot(
    indices: Tensor,
    one_hot_vector_size: Tensor,
    axis: Tensor | int = -1,
    on_value: Tensor | int = 1,
    off_value: Tensor | int = 0,
) -> Tensor:
    """``on_value`` at each index along a new axis, elsewhere ``off_value``."""
    place = integer(axis) % (indices.ndim + 1)
    numbers = torch.arange(integer(one_hot_vector_size))
    shape = [1] * (indices.ndim + 1)
    shape[place] = -1
    hot = indices.unsqueeze(place) == numbers.reshape(shape)
    on, off = torch.as_tensor(on_value), torch.as_tensor(off_value)
    dtype = on.dtype if on.dtype is not torch.int64 else torch.int32
    return torch.where(hot, on.to(dtype), off.to(dtype))


@operator("band_part")
def band_part(x: Tensor, lower: Tensor | int = -1, upper: Tensor | int = -1) -> Tensor:
    """The last two axes with zero outside a band; a negative width keeps that side whole."""
    rows, columns = x.shape[-2:]
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    below, above = integer(lower), integer(upper)
    kept = torch.ones(rows, columns, dtype=torch.bool)
    if below >= 0:
        kept &= row - column <= below
    if above >= 0:
        kept &= column - row <= above
    return torch.where(kept, x, torch.zeros_like(x))


@operator("pad")
def pad(
    x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | float = 0.0
) -> Tensor:
    """More elements before and after each of the last axes: a value, a mirror or the edge."""
    amounts = integers(pad)
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    pairs = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        flat = [amount for pair in reversed(pairs) for amount in pair]
        return F.pad(x, flat, value=torch.as_tensor(constant_val).item())
    if mode not in ("reflect", "replicate"):
        raise unknown_form("pad", f"the mode {mode}")
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            x = x.index_select(axis, _reflected(x.shape[axis], before, after, mode))
    return x


def _reflected(size: int, before: int, after: int, mode: str) -> Tensor:
    """The place that each element of a padded axis is read from."""
    places = torch.arange(-before, size + after)
    if mode == "replicate":
        return places.clamp(0, size - 1)
    if max(before, after) >= size:
        raise IndexError(f"{max(before, after)} elements cannot be mirrored from {size}")
    return (size - 1) - (places.abs() - (size - 1)).abs()
