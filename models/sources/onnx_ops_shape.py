"""ONNX operators that move, select or reshape elements, and the arithmetic of shapes.

Semantics: the ONNX operator specification, opset 11 to 24. Axes and sizes must be known
while the graph is captured: constants, or computed from shapes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .onnx_ops import (
    ALL,
    HOST_LIMIT,
    TORCH_TYPES,
    Node,
    Value,
    axis_of,
    host_operator,
    host_value,
    integers,
    literal,
    operator,
    product,
    shape_value,
)

# --- shapes ------------------------------------------------------------------------------


@operator("Shape", raw=ALL)
def shape(node: Node, x: Value) -> np.ndarray:
    sizes = list(x.shape)
    return shape_value(sizes[slice(node.get("start", 0), node.get("end"))])


@operator("Size", raw=ALL)
def size(node: Node, x: Value) -> np.ndarray:
    return host_value(product(list(x.shape)))


def new_shape(node: Node, sizes: list[Any], wanted: list[Any]) -> list[Any]:
    """Reshape's target with each 0 replaced by the input's size there."""
    if node.get("allowzero", 0):
        return wanted
    return [
        sizes[i] if isinstance(w, int) and w == 0 and i < len(sizes) else w
        for i, w in enumerate(wanted)
    ]


@operator("Reshape", host=(1,))
def reshape(node: Node, x: Tensor, wanted: np.ndarray) -> Tensor:
    return x.reshape(new_shape(node, list(x.shape), integers(wanted)))


@host_operator("Reshape")
def host_reshape(node: Node, x: np.ndarray, wanted: np.ndarray) -> Any:
    return x.reshape(new_shape(node, list(x.shape), integers(wanted)))


@operator("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    if axis == 1 and x.ndim >= 2:
        return torch.flatten(x, 1)
    sizes = list(x.shape)
    split = axis if axis == x.ndim else axis_of(axis, x.ndim)
    return x.reshape(product(sizes[:split]), product(sizes[split:]))


@operator("Squeeze", host=(1,))
def squeeze(node: Node, x: Tensor, axes: np.ndarray | None = None) -> Tensor:
    given = node.get("axes") if axes is None else integers(axes)
    if given is None:
        return x.squeeze()
    for axis in sorted((axis_of(a, x.ndim) for a in given), reverse=True):
        x = x.squeeze(axis)
    return x


@host_operator("Squeeze")
def host_squeeze(node: Node, x: np.ndarray, axes: np.ndarray | None = None) -> Any:
    given = node.get("axes") if axes is None else integers(axes)
    return np.squeeze(x, None if given is None else tuple(given))


def unsqueezed_axes(node: Node, rank: int, axes: np.ndarray | None) -> list[int]:
    given = node.get("axes") if axes is None else integers(axes)
    return sorted(axis_of(a, rank + len(given)) for a in given)


@operator("Unsqueeze", host=(1,))
def unsqueeze(node: Node, x: Tensor, axes: np.ndarray | None = None) -> Tensor:
    for axis in unsqueezed_axes(node, x.ndim, axes):
        x = x.unsqueeze(axis)
    return x


@host_operator("Unsqueeze")
def host_unsqueeze(node: Node, x: np.ndarray, axes: np.ndarray | None = None) -> Any:
    return np.expand_dims(x, tuple(unsqueezed_axes(node, x.ndim, axes)))


@operator("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm") or list(range(x.ndim))[::-1])


@host_operator("Transpose")
def host_transpose(node: Node, x: np.ndarray) -> Any:
    return np.transpose(x, node.get("perm"))


@operator("Expand", host=(1,))
def expand(node: Node, x: Tensor, wanted: np.ndarray) -> Tensor:
    """Both shapes broadcast: a 1 in ``wanted`` keeps the tensor's own size."""
    target = integers(wanted)
    target = [1] * (x.ndim - len(target)) + target
    first = len(target) - x.ndim
    for i, own in enumerate(x.shape):
        if isinstance(target[first + i], int) and target[first + i] == 1:
            target[first + i] = own
    return x.expand(target)


@host_operator("Expand")
def host_expand(node: Node, x: np.ndarray, wanted: np.ndarray) -> Any:
    if wanted.dtype == object:
        return NotImplemented
    target = np.broadcast_shapes(x.shape, tuple(integers(wanted)))
    return np.broadcast_to(x, target) if product(target) <= HOST_LIMIT else NotImplemented


@operator("Tile", host=(1,))
def tile(node: Node, x: Tensor, repeats: np.ndarray) -> Tensor:
    return x.repeat(integers(repeats))


@host_operator("Tile")
def host_tile(node: Node, x: np.ndarray, repeats: np.ndarray) -> Any:
    if repeats.dtype == object or product(integers(repeats)) * x.size > HOST_LIMIT:
        return NotImplemented
    return np.tile(x, integers(repeats))


@operator("ConstantOfShape", host=(0,))
def constant_of_shape(node: Node, sizes: np.ndarray) -> Value:
    fill = node.get("value", np.zeros(1, np.float32)).reshape(())
    wanted = integers(sizes)
    if sizes.dtype != object and product(wanted) <= HOST_LIMIT:
        return np.full(wanted, fill)
    return torch.full(wanted, fill.item(), dtype=literal(fill).dtype)


@operator("Range", host=(0, 1, 2))
def arange(node: Node, start: np.ndarray, limit: np.ndarray, step: np.ndarray) -> Value:
    first, last, by = start.item(), limit.item(), step.item()
    if limit.dtype == object or start.dtype == object:
        return torch.arange(first, last, by)
    if abs(last - first) / abs(by) > HOST_LIMIT:
        raise node.refuse("the range is too long")
    return np.arange(first, last, by, dtype=start.dtype)


@operator("EyeLike", raw=ALL)
def eye_like(node: Node, x: Value) -> Tensor:
    dtype = TORCH_TYPES[node.get("dtype")] if node.get("dtype") else literal(x).dtype
    rows, columns = x.shape
    offset = node.get("k", 0)
    return literal(np.eye(rows, columns, offset)).to(dtype)


@operator("NonZero", host=(0,))
def non_zero(node: Node, x: np.ndarray) -> np.ndarray:
    return np.array(np.nonzero(x), dtype=np.int64).reshape(max(x.ndim, 1), -1)


# --- joining and splitting ---------------------------------------------------------------


@operator("Concat")
def concat(node: Node, *parts: Tensor) -> Tensor:
    return torch.cat(parts, node.get("axis"))


@host_operator("Concat")
def host_concat(node: Node, *parts: np.ndarray) -> Any:
    return np.concatenate(parts, node.get("axis"))


def split_sizes(node: Node, length: Any, sizes: np.ndarray | None) -> list[Any]:
    """How long each part is: given, or equal with a shorter last part."""
    given = node.get("split") if sizes is None else integers(sizes)
    if given:
        return list(given)
    count = node.get("num_outputs") or len(node.outputs)
    each = -(-length // count)
    return [each] * (count - 1) + [length - each * (count - 1)]


@operator("Split", host=(1,))
def split(node: Node, x: Tensor, sizes: np.ndarray | None = None) -> tuple[Tensor, ...]:
    axis = axis_of(node.get("axis", 0), x.ndim)
    return torch.split(x, split_sizes(node, x.shape[axis], sizes), axis)


@host_operator("Split")
def host_split(node: Node, x: np.ndarray, sizes: np.ndarray | None = None) -> Any:
    axis = axis_of(node.get("axis", 0), x.ndim)
    ends = np.cumsum(split_sizes(node, x.shape[axis], sizes))[:-1]
    return tuple(np.split(x, ends, axis))


# --- selecting ---------------------------------------------------------------------------


def slice_ranges(
    rank: int, starts: np.ndarray, ends: np.ndarray, axes: Any, steps: Any
) -> list[tuple[int, Any, Any, Any]]:
    """(axis, start, end, step) of each axis that a Slice names."""
    first, last = integers(starts), integers(ends)
    where = range(len(first)) if axes is None else integers(axes)
    by = [1] * len(first) if steps is None else integers(steps)
    return [(axis_of(a, rank), s, e, p) for a, s, e, p in zip(where, first, last, by, strict=True)]


@operator("Slice", host=(1, 2, 3, 4))
def slice_tensor(
    node: Node,
    x: Tensor,
    starts: np.ndarray,
    ends: np.ndarray,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> Tensor:
    for axis, start, end, step in slice_ranges(x.ndim, starts, ends, axes, steps):
        if isinstance(step, int) and step < 0:  # torch has no backward steps: turn, then go
            kept = range(x.shape[axis])[start:end:step]
            x = x.flip(axis)
            start = x.shape[axis] - 1 - kept.start
            end, step = start + len(kept) * -step, -step
        x = x[(slice(None),) * axis + (slice(start, end, step),)]
    return x


@host_operator("Slice")
def host_slice(
    node: Node,
    x: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> Any:
    if any(v is not None and v.dtype == object for v in (starts, ends, steps)):
        return NotImplemented
    for axis, start, end, step in slice_ranges(x.ndim, starts, ends, axes, steps):
        x = x[(slice(None),) * axis + (slice(start, end, step),)]
    return x


def wrapped(indices: Value, length: Any) -> Value:
    """Constant indices with those counted from the end made positive.

    Indices computed by the network are taken as they are: torch's gathers have no
    negative ones, and a wrap on every target would cost more than it is worth.
    """
    if isinstance(indices, np.ndarray) and indices.dtype != object:
        return np.where(indices < 0, indices + length, indices)
    return indices


@operator("Gather", raw=(1,))
def gather(node: Node, x: Tensor, indices: Value) -> Tensor:
    axis = axis_of(node.get("axis", 0), x.ndim)
    indices = wrapped(indices, x.shape[axis])
    if isinstance(indices, np.ndarray) and indices.ndim == 0:
        return x.select(axis, indices.item())
    index = literal(indices)
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return F.embedding(index, x)
    if index.ndim == 1:
        return x.index_select(axis, index)
    taken = x.index_select(axis, index.reshape(-1))
    return taken.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@host_operator("Gather")
def host_gather(node: Node, x: np.ndarray, indices: np.ndarray) -> Any:
    return np.take(x, indices.astype(np.int64), axis=node.get("axis", 0))


@operator("GatherElements", raw=(1,))
def gather_elements(node: Node, x: Tensor, indices: Value) -> Tensor:
    axis = axis_of(node.get("axis", 0), x.ndim)
    return torch.gather(x, axis, literal(wrapped(indices, x.shape[axis])))


@operator("GatherND")
def gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """``indices[..., :]`` addresses x's axes behind the ``batch_dims`` leading ones."""
    batch = node.get("batch_dims", 0)
    address: list[Tensor] = []
    for axis in range(batch):
        sizes = [1] * (indices.ndim - 1)
        sizes[axis] = -1
        address.append(torch.arange(x.shape[axis]).reshape(sizes))
    return x[(*address, *indices.unbind(-1))]


REDUCE_NAMES = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Scatter", "ScatterElements", raw=(1,))
def scatter_elements(node: Node, x: Tensor, indices: Value, updates: Tensor) -> Tensor:
    axis = axis_of(node.get("axis", 0), x.ndim)
    index = literal(wrapped(indices, x.shape[axis]))
    reduction = node.get("reduction", "none")
    if reduction == "none":
        return torch.scatter(x, axis, index, updates)
    return torch.scatter_reduce(x, axis, index, updates, REDUCE_NAMES[reduction])


@operator("ScatterND")
def scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    reduction = node.get("reduction", "none")
    if reduction in ("none", "add"):
        address = indices.unbind(-1)
        return torch.index_put(x, address, updates, accumulate=reduction == "add")
    depth = indices.shape[-1]
    row = torch.zeros_like(indices.select(-1, 0))
    for axis in range(depth):  # one flat row number out of the first axes' indices
        row = row * x.shape[axis] + indices.select(-1, axis)
    rows = x.reshape(product(x.shape[:depth]), -1)
    values = updates.reshape(row.numel(), -1)
    target = row.reshape(-1, 1).expand_as(values)
    result = torch.scatter_reduce(rows, 0, target, values, REDUCE_NAMES[reduction])
    return result.reshape(x.shape)


@host_operator("ScatterND")
def host_scatter_nd(node: Node, x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> Any:
    if node.get("reduction", "none") != "none":
        return NotImplemented
    result = x.copy()
    result[tuple(np.moveaxis(indices, -1, 0))] = updates
    return result


@operator("Compress", host=(1,))
def compress(node: Node, x: Tensor, condition: np.ndarray) -> Tensor:
    axis = node.get("axis")
    kept = literal(np.flatnonzero(condition))
    return x.flatten().index_select(0, kept) if axis is None else x.index_select(axis, kept)


@operator("OneHot", host=(1,), raw=(2,))
def one_hot(node: Node, indices: Tensor, depth: np.ndarray, values: Value) -> Tensor:
    """Indices outside [-depth, depth) give rows of the off value, as the specification says."""
    count = int(depth.item())
    if count > HOST_LIMIT:
        raise node.refuse(f"its depth is {count}")
    axis = axis_of(node.get("axis", -1), indices.ndim + 1)
    sizes = [1] * (indices.ndim + 1)
    sizes[axis] = count
    places = literal(np.arange(count, dtype=np.int64).reshape(sizes))
    whole = indices.to(torch.int64).unsqueeze(axis)
    hit = (whole == places) | (whole + count == places)
    off, on = literal(values).unbind(0)
    return torch.where(hit, on, off)


@host_operator("OneHot")
def host_one_hot(node: Node, indices: np.ndarray, depth: np.ndarray, values: np.ndarray) -> Any:
    count = int(depth.item())
    if indices.dtype == object or indices.size * count > HOST_LIMIT:
        return NotImplemented
    whole = indices.astype(np.int64)[..., None]
    places = np.arange(count)
    hit = (whole == places) | (whole + count == places)
    return np.moveaxis(np.where(hit, values[1], values[0]), -1, node.get("axis", -1))


@operator("Trilu", host=(1,))
def triangle(node: Node, x: Tensor, k: np.ndarray | None = None) -> Tensor:
    offset = 0 if k is None else int(k.item())
    return torch.triu(x, offset) if node.get("upper", 1) else torch.tril(x, offset)


@host_operator("Trilu")
def host_triangle(node: Node, x: np.ndarray, k: np.ndarray | None = None) -> Any:
    offset = 0 if k is None else int(k.item())
    return np.triu(x, offset) if node.get("upper", 1) else np.tril(x, offset)


# --- blocks and borders ------------------------------------------------------------------


@operator("DepthToSpace")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    x = x.reshape(n, block, block, c // (block * block), h, w)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, c // (block * block), h * block, w * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    block = node.get("blocksize")
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block * block, h // block, w // block)


def pad_pairs(rank: int, pads: list[int], axes: list[int] | None) -> list[tuple[int, int]]:
    """(before, after) for every axis, from ONNX's list of all befores, then all afters."""
    chosen = list(range(rank)) if axes is None else [axis_of(a, rank) for a in axes]
    pairs = [(0, 0)] * rank
    for i, axis in enumerate(chosen):
        pairs[axis] = (pads[i], pads[i + len(chosen)])
    return pairs


def flat_pads(pairs: list[tuple[int, int]]) -> list[int]:
    """Pairs from the first axis to the last, in torch's order: last axis first."""
    return [amount for pair in reversed(pairs) for amount in pair]


@operator("Pad", host=(1, 3), raw=(2,))
def pad(
    node: Node,
    x: Tensor,
    pads: np.ndarray,
    value: Value | None = None,
    axes: np.ndarray | None = None,
) -> Tensor:
    pairs = pad_pairs(x.ndim, integers(pads), None if axes is None else integers(axes))
    mode = node.get("mode", "constant")
    if mode != "constant":
        return pad_by_index(node, x, pairs)
    if isinstance(value, Tensor):
        raise node.refuse("its value is computed by the network")
    while len(pairs) > 1 and pairs[0] == (0, 0):
        pairs = pairs[1:]
    fill = 0 if value is None or value.size == 0 else value.item()
    return F.pad(x, flat_pads(pairs), value=fill)


TORCH_MODES = {"reflect": "reflect", "edge": "replicate"}


def pad_by_index(node: Node, x: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Borders that repeat the input: torch's own padding where its ranks allow it, else
    a selection along each axis. Negative amounts cut off."""
    for axis, (before, after) in enumerate(pairs):
        cut = max(-before, 0), max(-after, 0)
        if any(cut):
            x = x.narrow(axis, cut[0], x.shape[axis] - sum(cut))
    pairs = [(max(before, 0), max(after, 0)) for before, after in pairs]
    trailing = next((x.ndim - i for i, pair in enumerate(pairs) if any(pair)), 0)
    if trailing == 0:
        return x
    mode = node.get("mode")
    if mode != "wrap" and trailing <= 3 and x.ndim - trailing in (1, 2):
        return F.pad(x, flat_pads(pairs[-trailing:]), mode=TORCH_MODES[mode])
    for axis, pair in enumerate(pairs):
        if any(pair):
            places = np.pad(np.arange(x.shape[axis]), pair, mode=mode)
            x = x.index_select(axis, literal(places))
    return x
