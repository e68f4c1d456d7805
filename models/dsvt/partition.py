"""Voxelisation and the set partition in tensor operators that a graph can hold.

The same as :mod:`edgekit.runtimes.partition` does in NumPy, for the deployment that takes
points. Sizes that depend on the data come from ``nonzero`` alone, which is what
torch.export, ONNX Runtime and OpenVINO all know how to carry on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .config import DSVTConfig
from .transformer import Partition, Stage


@dataclass(frozen=True)
class Voxels:
    """Occupied voxels in ascending order of their number.

    Attributes:
        number: (N,) (x * ny + y) * nz + z. point: (P,) the voxel of each point, N outside.
    """

    number: Tensor
    point: Tensor


def voxelise(points: Tensor, config: DSVTConfig) -> Voxels:
    """The voxels that hold points (P, 5), and which point is in which."""
    cells, within = zip(*(_cells(points[:, axis], config, axis) for axis in range(3)), strict=True)
    inside = within[0] & within[1] & within[2]
    # What is outside (or not a number) goes to a voxel of its own behind the last one.
    x, y, z = (torch.where(inside, cell, 0) for cell in cells)
    total = config.grid[0] * config.grid[1] * config.grid[2]
    number = torch.where(inside, (x * config.grid[1] + y) * config.grid[2] + z, total)
    occupied, rank = _ranked(number, total)
    return Voxels(occupied, torch.where(inside, rank[number], occupied.shape[0]))


def _cells(places: Tensor, config: DSVTConfig, axis: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the cell of each place (0 where it has none), and whether it has one.

    Runtimes turn a division by a constant into a product, and fuse it with the subtraction
    before; a point on a border between cells may then change sides. So the quotient is only
    a guess, and comparisons with the borders have the last word.
    """
    borders = torch.tensor(cell_borders(config.voxel_size[axis], config.grid[axis]))
    distance = places - config.point_range[axis]
    inside = (distance >= 0) & (distance < borders[-1])
    distance = torch.where(inside, distance, 0.0)
    guess = torch.floor(distance * (1 / config.voxel_size[axis]))
    guess = guess.to(torch.int64).clamp(0, config.grid[axis] - 1)
    up = (distance >= borders.index_select(0, guess + 1)).to(torch.int64)
    down = (distance < borders.index_select(0, guess)).to(torch.int64)
    return guess + up - down, inside


@cache
def cell_borders(size: float, count: int) -> tuple[float, ...]:
    """For k = 0 … count the least float32 whose quotient by ``size``, in float32, is k or more."""
    step = np.float32(size)
    number = np.arange(count + 1)
    # A quotient is off by half a unit in its last place at most: a few of them around k * size.
    near = [(number * np.float64(step)).astype(np.float32)]
    for _ in range(4):
        near.insert(0, np.nextafter(near[0], np.float32(-np.inf)))
        near.append(np.nextafter(near[-1], np.float32(np.inf)))
    candidates = np.stack(near)
    first = (candidates / step >= number).argmax(0)
    borders = candidates[first, number]
    borders[0] = 0  # not the negative numbers next to it, whose quotient rounds to -0
    return tuple(borders.tolist())


def floor_divide(a: Tensor, b: Tensor | int) -> Tensor:
    """Whole quotients of whole numbers, a from 0 and b from 1 on, if they are below 2**22.

    ONNX exporters and OpenVINO divide integers in float32, by a reciprocal even: 72 / 36 can
    be 1. The remainder, in integers, says by how much such a quotient is off.
    """
    quotient = (a.to(torch.float32) / b).to(torch.int64)
    rest = a - quotient * b
    return quotient + (rest >= b).to(torch.int64) - (rest < 0).to(torch.int64)


def _ranked(number: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """The numbers below ``total`` that occur, ascending, and for each number its place there."""
    present = torch.zeros(total + 1, dtype=torch.int64).scatter(0, number, 1)
    occupied = torch.nonzero(present[:total])[:, 0]
    torch._check(occupied.shape[0] >= 1)
    return occupied, torch.cumsum(present, 0) - 1


def point_features(points: Tensor, voxels: Voxels, config: DSVTConfig) -> Tensor:
    """(P, 11): columns, offset from the mean of the voxel's points, offset from its centre.

    Means are of the offsets from the centre: sums of places far away, in whatever order a
    runtime adds them, would differ in the fourth digit of what is left after subtraction.
    """
    count = voxels.number.shape[0]
    size = torch.tensor(config.voxel_size)
    low = torch.tensor(config.point_range[:3])
    centres = coordinates(voxels.number, config.grid).to(torch.float32) * size + (size / 2 + low)
    centres = torch.cat([centres, centres.new_zeros(1, 3)])
    own = points[:, :3] - centres.index_select(0, voxels.point)
    counted = torch.cat([own, torch.ones_like(own[:, :1])], dim=1)
    index = voxels.point[:, None].expand(-1, 4)
    sums = torch.zeros(count + 1, 4).scatter_add(0, index, counted)
    means = sums[:, :3] / sums[:, 3:].clamp(min=1)
    return torch.cat([points, own - means.index_select(0, voxels.point), own], dim=1)


def coordinates(number: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """(N, 3): x, y, z of voxels by number."""
    _, ny, nz = grid
    columns = floor_divide(number, nz)
    x = floor_divide(columns, ny)
    return torch.stack([x, columns - x * ny, number - columns * nz], dim=1)


def stages(number: Tensor, config: DSVTConfig) -> tuple[list[Stage], Tensor]:
    """The partitions and poolings of all stages, and the last stage's voxels by number."""
    found = []
    for stage in range(config.stages):
        places = coordinates(number, config.grid_at(stage))
        partitions = tuple(partition(places, config, stage, shift) for shift in range(2))
        pool = None
        if stage < len(config.z_strides):
            number, pool = pooled(number, config, stage)
        found.append(Stage(partitions, pool))
    return found, number


def partition(places: Tensor, config: DSVTConfig, stage: int, shift: int) -> Partition:
    """One partition of voxels (N, 3) into sets of equal size."""
    window = torch.tensor(config.window_at(stage, shift))
    shifted = places + torch.tensor(config.shift_at(stage, shift))
    which = floor_divide(shifted, window)
    cells = shifted - which * window
    _, many_y, many_z = config.windows_at(stage, shift)
    windows = (which[:, 0] * many_y + which[:, 1]) * many_z + which[:, 2]
    wx, wy, wz = config.window_at(stage, shift)
    x, y, z = cells.unbind(1)
    orders = [
        torch.sort(windows * (wx * wy * wz) + rank)[1]
        for rank in ((y * wx + x) * wz + z, (x * wy + y) * wz + z)
    ]
    total = config.windows_at(stage, shift)[0] * many_y * many_z
    sets, slots = _sets(windows, orders, total, config.set_size)
    return Partition(sets, slots, cells)


def _sets(windows: Tensor, orders: list[Tensor], total: int, size: int) -> tuple[Tensor, Tensor]:
    """Sets and slots; both orders sort by window first, so that all but the voxels agree."""
    counts = torch.zeros(total, dtype=torch.int64).scatter_add(0, windows, torch.ones_like(windows))
    set_counts = floor_divide(counts + (size - 1), size)
    starts = torch.cumsum(counts, 0) - counts
    set_starts = torch.cumsum(set_counts, 0) - set_counts
    own = windows.index_select(0, orders[0])
    n, many, start = (table.index_select(0, own) for table in (counts, set_counts, starts))
    rank = torch.arange(windows.shape[0]) - start
    # The voxel of this rank opens the set j if j is the least with floor(j n / S) = rank.
    j = floor_divide(rank * many + n - 1, n)
    opens = (j < many) & (floor_divide(j * n, many) == rank)
    first = torch.nonzero(opens)[:, 0]
    torch._check(first.shape[0] >= 1)
    n1, many1, start1, j1 = (table.index_select(0, first)[:, None] for table in (n, many, start, j))
    slot = j1 * size + torch.arange(size)
    picked = start1 + floor_divide(slot * n1, many1 * size)
    sets = [order.index_select(0, picked.reshape(-1)).view(-1, size) for order in orders]
    back = floor_divide(rank * many * size + n - 1, n)
    back = back + set_starts.index_select(0, own) * size
    slots = [torch.zeros_like(order).scatter(0, order, back) for order in orders]
    return torch.stack(sets), torch.stack(slots)


def pooled(number: Tensor, config: DSVTConfig, stage: int) -> tuple[Tensor, Tensor]:
    """The next stage's voxels by number, and (N', volume) which voxels each is made of."""
    depth, stride = config.grid_at(stage)[2], config.z_strides[stage]
    nx, ny, next_depth = config.grid_at(stage + 1)
    column = floor_divide(number, depth)
    z = number - column * depth
    level = floor_divide(z, stride)
    occupied, rank = _ranked(column * next_depth + level, nx * ny * next_depth)
    count = number.shape[0]
    slot = rank.index_select(0, column * next_depth + level) * stride + (z - level * stride)
    empty = torch.full((occupied.shape[0] * stride,), 0, dtype=torch.int64) + count
    pool = empty.scatter(0, slot, torch.arange(count))
    return occupied, pool.view(-1, stride)


def map_rows(number: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """(ny * nx,): the row of the voxel in each cell of the map, N where there is none.

    ``number`` is of a grid one voxel high, where it counts y fastest; the map counts x fastest.
    """
    nx, ny, _ = grid
    x = floor_divide(number, ny)
    empty = torch.zeros(nx * ny, dtype=torch.int64) + number.shape[0]
    return empty.scatter(0, (number - x * ny) * nx + x, torch.arange(number.shape[0]))
