"""Where the map seen from above is not empty: rows for convolutions that compute only there.

Most cells of the map hold no pillar. What a convolution gives far from any pillar depends on
nothing but how near the map's border is, so one row stands for all such cells of a kind. A
map is thus a table of rows: a zero row (what lies beyond the border), a row for every kind of
empty cell, and one for every cell that a pillar reaches. A 3x3 convolution is nine gathers
and one matrix product, with the same result as over the dense map.

Maps are (height, width), rows of y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Sites:
    """A map as a table of rows, row 0 being zero.

    Attributes:
        labels: (H, W) the row of each cell. empty: (H, W) the row that it would have if
            there were no pillar at all. reached: (H, W) where a pillar has an influence.
        reach: how many cells from the border an empty cell feels it.
    """

    labels: np.ndarray
    empty: np.ndarray
    reached: np.ndarray
    reach: int = 0


def pillars(number: np.ndarray, grid: tuple[int, int, int]) -> Sites:
    """The map of pillars themselves; row 1 + i is that of pillar i.

    Args:
        number: (N,) x * ny + y, ascending. grid: cells along x, y and z.
    """
    nx, ny, _ = grid
    labels = np.zeros((ny, nx), np.int64)
    x, y = np.divmod(number, ny)
    labels[y, x] = np.arange(1, number.size + 1)
    return Sites(labels, np.zeros_like(labels), labels > 0)


def after(before: Sites, stride: int = 1) -> Sites:
    """The map that a 3x3 convolution (padding 1) makes of another."""
    padded = np.pad(before.reached, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    near = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    reached = near[::stride, ::stride]
    reach = -(-(before.reach + 1) // stride)
    empty = kinds(reached.shape, reach)
    labels = empty.copy()
    first = (2 * reach + 1) ** 2 + 1
    labels[reached] = np.arange(first, first + np.count_nonzero(reached))
    return Sites(labels, empty, reached, reach)


def taps(before: Sites, then: Sites, stride: int = 1) -> np.ndarray:
    """(M, 9): rows of ``before`` around the place of each row of ``then``, row by row."""
    across = before.labels.shape[1] + 2
    offsets = (np.arange(3)[:, None] * across + np.arange(3)).ravel()

    def around(labels: np.ndarray, places: np.ndarray) -> np.ndarray:
        corner = (places[:, 0] * across + places[:, 1]) * stride
        return np.pad(labels, 1).ravel()[corner[:, None] + offsets]

    found = np.argwhere(then.reached)
    edges = kinds_at(then.labels.shape, then.reach)
    return np.concatenate([around(before.empty, edges), around(before.labels, found)])


def middles(before: Sites, then: Sites, stride: int = 1) -> np.ndarray:
    """(M,): the row of ``before`` at the place of each row of ``then``."""
    y, x = kinds_at(then.labels.shape, then.reach).T * stride
    found = before.labels[::stride, ::stride][then.reached]
    return np.concatenate([before.empty[y, x], found])


def kinds(shape: Shape, reach: int) -> np.ndarray:
    """(H, W): the row of each cell of an empty map, from 1."""
    height, width = (_kinds_along(size, reach) for size in shape)
    return 1 + height[:, None] * (2 * reach + 1) + width


def _kinds_along(size: int, reach: int) -> np.ndarray:
    """0, 1, … from one border, ``reach`` in between, … up to 2 * reach at the other one."""
    place = np.arange(size)
    return np.where(place < reach, place, np.maximum(2 * reach - (size - 1 - place), reach))


def kinds_at(shape: Shape, reach: int) -> np.ndarray:
    """(K, 2): y and x of a cell of each kind, in their order; of kinds that a small map lacks,
    those of any other."""
    near = np.arange(2 * reach + 1)
    along = (np.where(near <= reach, near, size - 1 - (2 * reach - near)) for size in shape)
    clipped = [np.clip(one, 0, size - 1) for one, size in zip(along, shape, strict=True)]
    return np.stack(np.meshgrid(*clipped, indexing="ij"), axis=-1).reshape(-1, 2)


def spread(labels: np.ndarray, factor: int) -> np.ndarray:
    """(H * factor * W * factor,) where each cell of a map is found that is ``factor`` times as
    fine, in a table that has factor * factor rows (row by row) for each row of the coarse one."""
    fine = labels.repeat(factor, 0).repeat(factor, 1) * factor**2
    part = np.arange(factor)
    fine.reshape(labels.shape[0], factor, labels.shape[1], factor)[:] += (
        part[:, None, None] * factor + part
    )
    return fine.ravel()


def map_inputs(
    number: np.ndarray,
    grid: tuple[int, int, int],
    strides: Sequence[Sequence[int]],
    upsample: Sequence[float],
) -> dict[str, np.ndarray]:
    """What the split graph takes of the map, by name.

    Args:
        number: (N,) pillars, ascending. grid: cells along x, y and z.
        strides: of each stage, that of each block (two convolutions and a residual).
        upsample: of each stage's map before they are joined.

    Returns:
        for each block b the taps of its two convolutions, ``taps_b_0`` and ``taps_b_1``, and
        ``middles_b``, the row of its input that its residual takes; for each stage s
        ``map_rows_s``: where each cell of its map is found, brought to the joined size where
        ``upsample`` is a whole number.
    """
    found: dict[str, np.ndarray] = {}
    start, block = pillars(number, grid), 0
    for stage, (own, factor) in enumerate(zip(strides, upsample, strict=True)):
        for stride in own:
            inner = after(start, stride)
            outer = after(inner)
            found[f"taps_{block}_0"] = taps(start, inner, stride)
            found[f"taps_{block}_1"] = taps(inner, outer)
            found[f"middles_{block}"] = middles(start, outer, stride)
            start, block = outer, block + 1
        found[f"map_rows_{stage}"] = spread(start.labels, max(round(factor), 1))
    return found
