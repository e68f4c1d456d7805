"""Upright boxes turned about the vertical: their overlap from above, and suppression of doubles.

A box is (x, y, z, length, width, height, heading): centre in metres, sides in metres, heading
in radians counter-clockwise from x, along which the length lies.

>>> import numpy as np
>>> boxes = np.array([[0, 0, 0, 4, 2, 2, 0], [2, 0, 0, 4, 2, 2, np.pi]])
>>> round(float(bev_iou(boxes[:1], boxes[1:])[0, 0]), 6)
0.333333
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from edgekit.errors import InputError

_BLOCK: Final = 512  # rows of a table of pairs that is looked at in one go
_CORNERS: Final = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2  # of a side, in order
QUARTER: Final = math.pi / 2


def bev_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union, seen from above, of every box of ``a`` with every one of ``b``.

    Args:
        a: (N, 7). b: (M, 7).

    Returns:
        (N, M) float64; 0 where a box has no area or is not finite.

    Raises:
        InputError: a shape is not (N, 7).
    """
    a, b = _checked(a), _checked(b)
    found = np.zeros((len(a), len(b)))
    for begin in range(0, len(a), _BLOCK):
        rows, columns = _near(a[begin : begin + _BLOCK], b)
        found[rows + begin, columns] = pair_iou(a[rows + begin], b[columns])
    return found


def pair_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) intersection over union of each box of ``a`` (P, 7) with its partner in ``b``."""
    a, b = _checked(a), _checked(b)
    area_a, area_b = a[:, 3] * a[:, 4], b[:, 3] * b[:, 4]
    common = np.minimum(_intersection(a, b), np.minimum(area_a, area_b))
    return np.divide(common, area_a + area_b - common, out=np.zeros(len(a)), where=common > 0)


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    *,
    quarter_turn: bool = False,
    limit: int | None = None,
) -> np.ndarray:
    """Greedy non-maximum suppression seen from above.

    Args:
        boxes: (N, 7). scores: (N,).
        threshold: what overlaps a kept box by more than this is left out.
        quarter_turn: turn every footprint by 90 degrees about its own centre first. The
            official Waymo code does (it hands angles to a kernel of another convention), so
            published numbers come from it; cars behind each other then overlap less, and
            cars side by side more, than they do.
        limit: how many to keep at most.

    Returns:
        int64 indices, best first; of equal scores the lower index comes first. A box or a
        score that is not finite is never kept.

    Raises:
        InputError: the shapes do not fit.
    """
    boxes, scores = _checked(boxes), np.asarray(scores)
    if scores.shape != (len(boxes),):
        raise InputError(f"{scores.size} scores do not fit {len(boxes)} boxes")
    if quarter_turn:
        boxes = boxes + np.array([0, 0, 0, 0, 0, 0, QUARTER])
    usable = np.isfinite(boxes).all(1) & np.isfinite(scores)
    order = np.argsort(-scores, kind="stable")
    order = order[usable[order]]
    overlaps = bev_iou(boxes[order], boxes[order]) > threshold
    alive = np.ones(order.size, bool)
    kept: list[int] = []
    for place in range(order.size):
        if limit is not None and len(kept) == limit:
            break
        if alive[place]:
            kept.append(place)
            alive &= ~overlaps[place]
    return order[kept]


def footprints(boxes: np.ndarray) -> np.ndarray:
    """(N, 4, 2) corners of boxes (N, 7) seen from above, counter-clockwise from the front left."""
    boxes = _checked(boxes)
    return _turned(_CORNERS * boxes[:, None, 3:5], boxes[:, 6]) + boxes[:, None, :2]


def _near(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose circumscribed circles meet: all others cannot overlap."""
    reach = [np.hypot(boxes[:, 3], boxes[:, 4]) / 2 for boxes in (a, b)]
    gap = np.hypot(a[:, None, 0] - b[None, :, 0], a[:, None, 1] - b[None, :, 1])
    return np.nonzero(gap < reach[0][:, None] + reach[1][None, :])


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) areas that pairs of footprints share.

    In the frame of ``a``, the outline of ``b`` is cut where it crosses the lines on which
    the sides of ``a`` lie, and then clamped between them. What was outside becomes a walk
    along a line, there and back, and contributes nothing to the area. Unlike clipping that
    drops corners, this never decides anything, so it is continuous in the boxes.
    """
    offset = _turned((b[:, :2] - a[:, :2])[:, None], -a[:, 6])
    outline = _turned(_CORNERS * b[:, None, 3:5], b[:, 6] - a[:, 6]) + offset
    for axis in range(2):
        outline = _clamped(outline, axis, a[:, 3 + axis] / 2)
    x, y = outline[..., 0], outline[..., 1]
    twice = x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)
    return np.abs(twice.sum(1)) / 2


def _clamped(outline: np.ndarray, axis: int, half: np.ndarray) -> np.ndarray:
    """An outline (P, V, 2) with corners where it crosses ``±half``, clamped in between."""
    step = np.roll(outline, -1, axis=1) - outline
    along = step[..., axis]
    safe = np.where(along == 0, 1, along)
    sides = np.stack([-half, half])[:, :, None]
    with np.errstate(over="ignore"):  # a step of next to nothing crosses far away, if at all
        cuts = np.where(along == 0, 0, (sides - outline[..., axis]) / safe).clip(0, 1)
    cuts = np.stack([np.zeros_like(along), cuts.min(0), cuts.max(0)], axis=-1)
    points = outline[:, :, None] + cuts[..., None] * step[:, :, None]
    points = points.reshape(len(outline), 3 * outline.shape[1], 2)
    points[..., axis] = points[..., axis].clip(-half[:, None], half[:, None])
    return points


def _turned(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Points (P, V, 2) turned counter-clockwise by angles (P,)."""
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=-1)


def _checked(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 7:
        raise InputError(f"boxes of shape {list(boxes.shape)}", "(N, 7) is expected")
    return boxes
