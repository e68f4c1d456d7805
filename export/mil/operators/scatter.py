"""Writing at computed places: a copy of the data with updates combined into it.

An index outside is undefined from iOS 17 on; here it ends the run with an error, since
there is no place that could be marked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .table import integer, operator, unknown_form

_COMBINED = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter(kind: str, data: Tensor, places: Tensor, updates: Tensor, mode: str) -> Tensor:
    """``data`` flat, ``places`` flat indices into it, ``updates`` of their shape."""
    places = places.reshape(-1)
    if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < data.numel():
        raise IndexError("an index is outside the data")
    flat, values = data.reshape(-1).clone(), updates.reshape(-1)
    if mode == "update":
        flat[places] = values
    elif mode in _COMBINED:
        flat.scatter_reduce_(0, places, values, _COMBINED[mode], include_self=True)
    elif mode == "sub":
        flat.scatter_add_(0, places, -values)
    elif mode == "div":
        share = torch.ones_like(flat).scatter_reduce_(0, places, values, "prod")
        flat = flat / share
    else:
        raise unknown_form(kind, f"the mode {mode}")
    return flat.reshape(data.shape)


def _checked(indices: Tensor, size: int) -> Tensor:
    plain = indices.long()
    if plain.numel() and not 0 <= int(plain.min()) <= int(plain.max()) < size:
        raise IndexError(f"an index is outside of 0 to {size - 1}")
    return plain


@operator("scatter")
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | bool = False,
) -> Tensor:
    """Slices along ``axis``: ``updates`` has one for each of ``indices``, a vector."""
    place = integer(axis) % data.ndim
    chosen = _checked(indices, data.shape[place])
    numbers = torch.arange(data.numel()).reshape(data.shape).index_select(place, chosen)
    return _scatter("scatter", data, numbers, updates, mode)


@operator("scatter_along_axis")
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | bool = False,
) -> Tensor:
    """Single elements along ``axis``; the other axes go in step."""
    place = integer(axis) % data.ndim
    chosen = _checked(indices, data.shape[place])
    numbers = torch.arange(data.numel()).reshape(data.shape)
    return _scatter(
        "scatter_along_axis", data, numbers.take_along_dim(chosen, place), updates, mode
    )


@operator("scatter_nd")
def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: Tensor | bool = False,
) -> Tensor:
    """Slices at places whose coordinates are the last axis of ``indices``."""
    parts = [_checked(indices[..., part], data.shape[part]) for part in range(indices.shape[-1])]
    numbers = torch.arange(data.numel()).reshape(data.shape)[tuple(parts)]
    return _scatter("scatter_nd", data, numbers, updates, mode)
