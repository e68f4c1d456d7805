"""Convolutions of the map that compute only where pillars have a say, as rows of a table.

What the tables are is said in :mod:`edgekit.runtimes.map_sites`, which makes them in NumPy for
the split deployment; here they are made in tensor operators for the whole one, and used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int]


@dataclass(frozen=True)
class BlockSites:
    """The rows that a block of two 3x3 convolutions computes.

    Attributes:
        inner, outer: (M, 9) what each row of its first and second convolution gathers, from
            a table whose row 0 is zero. middles: (M,) the same for its residual.
    """

    inner: Tensor
    outer: Tensor
    middles: Tensor


@dataclass(frozen=True)
class MapSites:
    """The rows of all blocks, and for each stage where the cells of its map are found."""

    blocks: tuple[BlockSites, ...]
    rows: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Sites:
    """A map as a table of rows; ``found`` (M,) are the cells that pillars reach, by number."""

    labels: Tensor
    empty: Tensor
    reached: Tensor
    found: Tensor
    reach: int

    @property
    def shape(self) -> Shape:
        return self.labels.shape[0], self.labels.shape[1]


def map_sites(
    rows: Tensor,
    count: int | torch.SymInt,
    shape: Shape,
    strides: Sequence[Sequence[int]],
    upsample: Sequence[float],
) -> MapSites:
    """The sites of a map of pillars.

    Args:
        rows: (H * W,) the pillar in each cell, ``count`` where there is none.
        shape: height and width.
        strides: of each stage, that of each block. upsample: of each stage's map.
    """
    reached = (rows < count).view(shape)
    labels = torch.where(reached, rows.view(shape) + 1, 0)
    nowhere = torch.zeros(0, dtype=torch.int64)  # nothing computes the pillars themselves
    start = _Sites(labels, torch.zeros_like(labels), reached, nowhere, 0)
    blocks, maps = [], []
    for own, factor in zip(strides, upsample, strict=True):
        for stride in own:
            inner = _after(start, stride)
            outer = _after(inner, 1)
            blocks.append(
                BlockSites(
                    _gathered(start, inner, stride, 3),
                    _gathered(inner, outer, 1, 3),
                    _gathered(start, outer, stride, 1)[:, 0],
                )
            )
            start = outer
        maps.append(_spread(start.labels, max(round(factor), 1)))
    return MapSites(tuple(blocks), tuple(maps))


def _after(before: _Sites, stride: int) -> _Sites:
    near = before.reached.to(torch.float32)[None, None]
    reached = F.max_pool2d(near, 3, stride=stride, padding=1)[0, 0] > 0
    height, width = reached.shape
    reach = -(-(before.reach + 1) // stride)
    empty = _kinds((height, width), reach)
    number = torch.cumsum(reached.flatten().to(torch.int64), 0).view(height, width)
    labels = torch.where(reached, number + (2 * reach + 1) ** 2, empty)
    found = torch.nonzero(reached.flatten())[:, 0]
    torch._check(found.shape[0] >= 1)
    return _Sites(labels, empty, reached, found, reach)


def _gathered(before: _Sites, then: _Sites, stride: int, size: int) -> Tensor:
    """(M, size * size): rows of ``before`` in the square around the place of each of ``then``.

    Gathered for every cell first, and then for those that count: sizes that depend on the data
    are what makes a graph slow to capture.
    """
    border = size // 2
    across = before.shape[1] + 2 * border
    around = torch.arange(size)
    offsets = (around[:, None] * across + around).flatten()
    y, x = (torch.arange(side) * stride for side in then.shape)
    corners = (y[:, None] * across + x).reshape(-1, 1)
    edges = _kinds_at(then.shape, then.reach) * stride
    parts = []
    for labels, corner in (
        (before.empty, (edges[:, 0] * across + edges[:, 1])[:, None]),
        (before.labels, corners),
    ):
        flat = F.pad(labels, (border,) * 4).flatten()
        square = flat.index_select(0, (corner + offsets).flatten())
        parts.append(square.view(-1, size * size))
    return torch.cat([parts[0], parts[1].index_select(0, then.found)])


def _kinds(shape: Shape, reach: int) -> Tensor:
    along = []
    for size in shape:
        place = torch.arange(size)
        far = (2 * reach - (size - 1 - place)).clamp(min=reach)
        along.append(torch.where(place < reach, place, far))
    return 1 + along[0][:, None] * (2 * reach + 1) + along[1]


def _kinds_at(shape: Shape, reach: int) -> Tensor:
    near = torch.arange(2 * reach + 1)
    along = [
        torch.where(near <= reach, near, size - 1 - (2 * reach - near)).clamp(0, size - 1)
        for size in shape
    ]
    return torch.cartesian_prod(*along)


def _spread(labels: Tensor, factor: int) -> Tensor:
    height, width = labels.shape
    part = torch.arange(factor)
    fine = labels[:, None, :, None] * factor**2 + (part[:, None, None] * factor + part)
    return fine.reshape(height * width * factor**2)


def with_zero(x: Tensor) -> Tensor:
    """(1 + N, C): a zero row before rows (N, C)."""
    return torch.cat([x.new_zeros(1, x.shape[1]), x])


def convolved(x: Tensor, taps: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """(M, outputs): a 3x3 convolution and its batch norm, of rows gathered from x (N, inputs)."""
    weight, bias = folded(conv, norm)
    size = 9 * conv.in_channels
    around = x.index_select(0, taps.reshape(-1)).view(taps.shape[0], size)
    return F.linear(around, weight.permute(0, 2, 3, 1).reshape(-1, size), bias)


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution without bias that has a batch norm behind it."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
