"""Voxels from points, and sets from voxels: what DSVT's network takes, in NumPy.

Wang et al.: "DSVT: Dynamic Sparse Voxel Transformer with Rotated Sets", CVPR 2023. The
official code does this with CUDA extensions and a counter per window; that counter cancels
out, so that one sort of each order says it all.

Voxels are ordered by their number (x * ny + y) * nz + z. All triples are x, y, z.

>>> layout = Layout((-1, -1, -1, 1, 1, 1), (1, 1, 2), 2, ((2, 2, 1),), (1, 1, 1), (1, 1, 0))
>>> voxels = voxelise(np.array([[0.5, 0.5, 0.0], [-0.5, 0.5, 0.0]]), layout)
>>> voxels.number.tolist(), voxels.order.tolist()
([1, 3], [1, 0])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .map_sites import map_inputs

Triple = tuple[int, int, int]

GROUP: Final = 4
"""Points of a voxel are handed over in groups of this many; the last one is repeated."""
MERGES: Final = (8, 16)
"""How many groups are merged into one at each step; a last step takes all that are left."""

_INDEX_BITS: Final = 32  # of a sort key; numbers of voxels and windows stay below 2**31


@dataclass(frozen=True)
class Layout:
    """A detector's grid, windows and sets.

    Attributes:
        point_range: x, y, z minimum and maximum in metres. voxel_size: in metres.
        set_size: voxels a set. windows: a window's size at each stage, in voxels.
        window_factor: how much larger windows are in the shifted partition.
        shift: of that partition, in voxels.
        z_strides: between stages, how many voxels are pooled in z.
        map_strides, upsample: as in :func:`.map_sites.map_inputs`.
    """

    point_range: tuple[float, float, float, float, float, float]
    voxel_size: tuple[float, float, float]
    set_size: int
    windows: tuple[Triple, ...]
    window_factor: Triple
    shift: Triple
    z_strides: tuple[int, ...] = ()
    map_strides: tuple[tuple[int, ...], ...] = ()
    upsample: tuple[float, ...] = ()

    @property
    def grid(self) -> Triple:
        """Voxels along x, y, z."""
        low, high = self.point_range[:3], self.point_range[3:]
        sides = zip(low, high, self.voxel_size, strict=True)
        return tuple(round((b - a) / size) for a, b, size in sides)

    def grid_at(self, stage: int) -> Triple:
        """Voxels along x, y, z at a stage."""
        x, y, z = self.grid
        for stride in self.z_strides[:stage]:
            z = -(-z // stride)
        return x, y, z


@dataclass(frozen=True, eq=False)
class Voxels:
    """The occupied voxels of a sweep.

    Attributes:
        number: (N,) int64, ascending.
        order: (P',) indices of the points inside the range, voxel by voxel.
        start: (N,) where each voxel's points begin in ``order``.
    """

    number: np.ndarray
    order: np.ndarray
    start: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """(N,) points of each voxel."""
        return np.diff(self.start, append=self.order.size)


@dataclass(frozen=True, eq=False)
class Partition:
    """Voxels in sets of equal size.

    Attributes:
        sets: (2, S, K) int64, the voxel in each slot; sorted along y, then along x. A voxel
            that fills several slots of a set has them side by side.
        slots: (2, N) int64, the first slot of each voxel, counted through all sets.
        cells: (N, 3) int64, x, y, z within the window.
    """

    sets: np.ndarray
    slots: np.ndarray
    cells: np.ndarray


def voxelise(points: np.ndarray, layout: Layout) -> Voxels:
    """Sort points (P, 3 or more) into voxels; those outside the range, or not finite, drop out.

    Cells are found in float32, as in training: floor((p - minimum) / size).
    """
    low = np.array(layout.point_range[:3], np.float32)
    size = np.array(layout.voxel_size, np.float32)
    grid = np.array(layout.grid, np.float32)
    cell = np.floor((points[:, :3].astype(np.float32, copy=False) - low) / size)
    inside = np.flatnonzero(((cell >= 0) & (cell < grid)).all(1))  # NaN compares as false
    x, y, z = cell[inside].astype(np.int64).T
    _, ny, nz = layout.grid
    number, place = _sorted((x * ny + y) * nz + z)
    first = np.flatnonzero(np.diff(number, prepend=-1))
    return Voxels(number[first], inside[place], first)


def _sorted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys ascending, and where each one was; of equal keys the first stays first.

    Key and index in one integer sort several times as fast as an argsort.
    """
    packed = (keys << _INDEX_BITS) | np.arange(keys.size)
    packed.sort()
    return packed >> _INDEX_BITS, packed & ((1 << _INDEX_BITS) - 1)


def coordinates(number: np.ndarray, grid: Triple) -> np.ndarray:
    """(N, 3) x, y, z of voxels by number."""
    columns, z = np.divmod(number, grid[2])
    x, y = np.divmod(columns, grid[1])
    return np.stack([x, y, z], axis=1)


def point_features(points: np.ndarray, voxels: Voxels, layout: Layout) -> np.ndarray:
    """(P', C + 6) float32 of the points in ``voxels.order``: their columns, the offset from
    the mean of their voxel's points, and from its centre."""
    ordered = points[voxels.order].astype(np.float32, copy=False)
    xyz = ordered[:, :3]
    counts = voxels.counts
    means = np.add.reduceat(xyz, voxels.start, axis=0, dtype=np.float64) / counts[:, None]
    size = np.array(layout.voxel_size, np.float32)
    low = np.array(layout.point_range[:3], np.float32)
    centres = coordinates(voxels.number, layout.grid).astype(np.float32) * size + (size / 2 + low)
    owner = np.repeat(np.arange(counts.size), counts)
    both = np.concatenate([means.astype(np.float32), centres], axis=1)[owner]
    return np.concatenate([ordered, xyz - both[:, :3], xyz - both[:, 3:]], axis=1)


def grouped(features: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Features of points in groups, and tables by which groups become voxels.

    A maximum over points is thus a few gathers and dense maxima, which every runtime has.

    Args:
        features: (P', F), voxel by voxel. counts: (N,) points of each voxel.

    Returns:
        ``points`` (G, GROUP, F); ``merge_0`` (M, 8) rows of groups, ``merge_1`` (M, 16) rows
        of ``merge_0``'s results, ``merge_2`` (M, any) of those; ``voxel_rows`` (N,) each
        voxel's row among the results of all three.
    """
    found, left = {}, counts
    table, left = _merge(counts, GROUP, np.cumsum(counts) - counts)
    found["points"] = features[table]
    start = np.cumsum(left) - left
    rows = np.zeros(counts.size, np.int64)
    open_, base = np.arange(counts.size), 0
    for level in range(len(MERGES) + 1):
        size = MERGES[level] if level < len(MERGES) else int(left.max(initial=1))
        table, left = _merge(left, size, start)
        # One row at least, which nothing points to: an empty axis is no graph's friend.
        found[f"merge_{level}"] = table if table.size else np.zeros((1, size), np.int64)
        start = np.cumsum(left) - left
        rows[open_] = base + start
        base += len(found[f"merge_{level}"])
        more = np.flatnonzero(left > 1)
        open_, left, start = open_[more], left[more], start[more]
    found["voxel_rows"] = rows
    return found


def _merge(counts: np.ndarray, size: int, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut runs of rows into pieces of ``size``; the last piece repeats its last row.

    Args:
        counts, start: (N,) each run's length and first row.

    Returns:
        (M, size) rows, and (N,) pieces of each run.
    """
    pieces = -(-counts // size)
    first = np.cumsum(pieces) - pieces
    within = np.arange(int(pieces.sum())) - np.repeat(first, pieces)
    offsets = within[:, None] * size + np.arange(size)
    last = np.repeat(counts - 1, pieces)[:, None]
    return np.minimum(offsets, last) + np.repeat(start, pieces)[:, None], pieces


def partition(number: np.ndarray, layout: Layout, stage: int, shifted: bool) -> Partition:
    """One partition of a stage's voxels into sets.

    Of a window's n voxels, S = ceil(n / K) sets are made; slot k of all S * K takes the voxel
    of rank floor(k * n / (S * K)), by y and then x (or by x and then y) within the window.
    """
    grid, window = layout.grid_at(stage), layout.windows[stage]
    covered = window[2] == grid[2]
    if shifted:
        window = tuple(w * f for w, f in zip(window, layout.window_factor, strict=True))
    shift = layout.shift if shifted else (0, 0, 0)
    shift = (*shift[:2], 0 if covered else shift[2])
    which, cells = np.divmod(coordinates(number, grid) + np.array(shift), np.array(window))
    many = [-(-cells_ // side) + 1 for cells_, side in zip(grid, window, strict=True)]
    windows = (which[:, 0] * many[1] + which[:, 1]) * many[2] + which[:, 2]
    x, y, z = cells.T
    wx, wy, wz = window
    base = windows * (wx * wy * wz)
    by_y = _sorted(base + (y * wx + x) * wz + z)
    by_x = _sorted(base + (x * wy + y) * wz + z)
    first = np.flatnonzero(np.diff(by_y[0] // (wx * wy * wz), prepend=-1))
    picked, slot = _slots(first, number.size, layout.set_size)
    sets = np.stack([order[picked] for _, order in (by_y, by_x)])
    slots = np.empty((2, number.size), np.int64)
    slots[0, by_y[1]] = slot
    slots[1, by_x[1]] = slot
    return Partition(sets, slots, cells)


def _slots(start: np.ndarray, total: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which sorted voxel each slot takes (S, K), and each sorted voxel's first slot (N,).

    Args:
        start: (W,) where each window's voxels begin. total: voxels. size: K.
    """
    n = np.diff(start, append=total)
    sets = -(-n // size)
    set_start = np.cumsum(sets) - sets
    window = np.repeat(np.arange(n.size), sets)
    within = np.arange(window.size) - set_start[window]
    slot = within[:, None] * size + np.arange(size)
    picked = start[window][:, None] + slot * n[window][:, None] // (sets[window] * size)[:, None]
    owner = np.repeat(np.arange(n.size), n)
    rank = np.arange(total) - start[owner]
    first = -(-rank * sets[owner] * size // n[owner])
    return picked, set_start[owner] * size + first


def pooled(number: np.ndarray, layout: Layout, stage: int) -> tuple[np.ndarray, np.ndarray]:
    """The next stage's voxels by number, and (N', stride) which voxels each is made of.

    A slot without a voxel holds N, the number of voxels before.
    """
    stride = layout.z_strides[stage]
    column, z = np.divmod(number, layout.grid_at(stage)[2])
    level, slot = np.divmod(z, stride)
    coarse = column * layout.grid_at(stage + 1)[2] + level  # ascending, as ``number`` is
    first = np.diff(coarse, prepend=-1) > 0
    row = np.cumsum(first) - 1
    pool = np.full((int(row[-1]) + 1, stride), number.size, np.int64)
    pool[row, slot] = np.arange(number.size)
    return coarse[first], pool


def network_inputs(points: np.ndarray, voxels: Voxels, layout: Layout) -> dict[str, np.ndarray]:
    """All that the split graph takes, by name.

    Args:
        points: (P, 5) float32. voxels: of these points; at least one.
    """
    found = grouped(point_features(points, voxels, layout), voxels.counts)
    number = voxels.number
    for stage in range(len(layout.windows)):
        for shift in range(2):
            one = partition(number, layout, stage, bool(shift))
            found[f"sets_{stage}_{shift}"] = one.sets
            found[f"slots_{stage}_{shift}"] = one.slots
            found[f"cells_{stage}_{shift}"] = one.cells
        if stage < len(layout.z_strides):
            number, found[f"pool_{stage}"] = pooled(number, layout, stage)
    return found | map_inputs(number, layout.grid, layout.map_strides, layout.upsample)
