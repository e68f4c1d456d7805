"""Boxes in a plane: overlap, decoding, non-maximum suppression. All detectors use these.

A box is (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, in continuous coordinates: the first
pixel of a picture reaches from 0 to 1, and a picture of W x H pixels from (0, 0) to (W, H).
A box without area overlaps nothing, nor does one with a coordinate that is not finite.

>>> import numpy as np
>>> boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]], np.float32)
>>> nms(boxes, np.array([0.7, 0.9, 0.8]), iou_threshold=0.5).tolist()
[1, 2]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from edgekit.errors import InputError

MAX_RATIO: Final = abs(math.log(16 / 1000))
"""How far a decoded side may be from its anchor's, as a logarithm (62.5 times)."""

# So many boxes are settled between two looks at all the others: with fewer, NumPy's cost of a
# call shows, with more, the work on boxes that are suppressed anyhow (64 to 256 differ little).
_BLOCK: Final = 128
_PAIRS: Final = 1 << 20  # compared at once at most: 8 MB an intermediate array


def cxcywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) boxes given as centre and size, as corners.

    Raises:
        InputError: the shape is not (N, 4).
    """
    boxes = _checked(boxes)
    centres, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def clip_boxes(boxes: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """(N, 4) boxes cut at the borders of a picture of ``size`` (height, width).

    A box outside of it has no area left; NaN stays NaN.

    Raises:
        InputError: the shape is not (N, 4).
    """
    boxes = _checked(boxes)
    height, width = size
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of ``a`` with every box of ``b``.

    Args:
        a: (N, 4). b: (M, 4). The areas must be finite in float64.

    Returns:
        (N, M), in the inputs' common floating type; 0 where a box has no area or is not finite.

    Raises:
        InputError: a shape is not (N, 4).
    """
    a, b = _checked(a), _checked(b)
    common = np.result_type(a, b)
    return _iou(a.astype(np.float64), b.astype(np.float64)).astype(common, copy=False)


def decode_deltas(
    anchors: np.ndarray,
    deltas: np.ndarray,
    std: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    max_ratio: float = MAX_RATIO,
) -> np.ndarray:
    """Boxes from a network's corrections of anchors: Faster R-CNN's parametrisation.

    The centre moves by (dx, dy) of the anchor's width and height, which are multiplied by
    exp(dw) and exp(dh) (arXiv:1311.2524; DeltaXYWHBBoxCoder of MMDetection, with means of 0).

    Args:
        anchors: (N, 4) corners. deltas: (N, 4) dx, dy, dw, dh.
        std: what the deltas are multiplied with first.
        max_ratio: bound of abs(dw) and abs(dh), so that no box overflows.

    Returns:
        (N, 4) corners in the inputs' common floating type. NaN in a delta is NaN in its box.

    Raises:
        InputError: a shape is not (N, 4), or the two differ.
    """
    anchors, deltas = _checked(anchors), _checked(deltas)
    if len(anchors) != len(deltas):
        raise InputError(f"{len(deltas)} deltas do not fit {len(anchors)} anchors")
    deltas = deltas * np.asarray(std, deltas.dtype)
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) * 0.5 + size * deltas[:, :2]
    half = size * np.exp(np.clip(deltas[:, 2:], -max_ratio, max_ratio)) * 0.5
    return np.concatenate([centre - half, centre + half], axis=1)


def nms(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, limit: int | None = None
) -> np.ndarray:
    """Greedy non-maximum suppression: the best box, then the best that overlaps none kept.

    Args:
        boxes: (N, 4). scores: (N,).
        iou_threshold: what overlaps a kept box by more than this is left out.
        limit: how many to keep at most; None: all.

    Returns:
        int64 indices, best score first; of equal scores the lower index comes first. A box
        or score that is NaN, and a box with an infinite coordinate, is never kept.

    Raises:
        InputError: the shapes do not fit.
    """
    boxes, scores = _scored(boxes, scores)
    order = np.argsort(-scores, kind="stable")
    order = order[(np.isfinite(boxes).all(1) & ~np.isnan(scores))[order]]
    most = order.size if limit is None else limit
    kept: list[int] = []
    while order.size and len(kept) < most:
        step = max(min(_BLOCK, _PAIRS // order.size), 1)
        block, rest = order[:step], order[step:]
        chosen = block[_settle(_iou(boxes[block], boxes[block]) > iou_threshold)]
        kept += chosen.tolist()
        # Nobody looks at the rest again once there are enough.
        if len(kept) < most:
            suppressed = (_iou(boxes[chosen], boxes[rest]) > iou_threshold).any(0)
            order = rest[~suppressed]
    return np.array(kept[:most], np.int64)


def nms_per_class(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    iou_threshold: float,
    limit: int | None = None,
) -> np.ndarray:
    """:func:`nms` among the boxes of each class, then the best ``limit`` of all classes.

    Args:
        classes: (N,) integers; only boxes of the same class suppress each other.

    Returns, Raises:
        as :func:`nms`.
    """
    boxes, scores = _scored(boxes, scores)
    classes = np.asarray(classes)
    if classes.shape != scores.shape:
        raise InputError(f"{classes.size} classes do not fit {scores.size} boxes")
    members = np.argsort(classes, kind="stable")  # of one class by index, as ties need it
    starts = np.flatnonzero(np.diff(classes[members])) + 1
    kept = [
        group[nms(boxes[group], scores[group], iou_threshold, limit)]
        for group in np.split(members, starts)
    ]
    together = np.sort(np.concatenate(kept))
    best = np.argsort(-scores[together], kind="stable")
    return together[best][:limit].astype(np.int64, copy=False)


def _settle(overlaps: np.ndarray) -> list[int]:
    """Which of a block to keep, best first; ``overlaps[i, j]``: if i is kept, j is not."""
    gone = np.zeros(len(overlaps), bool)
    kept = []
    for i in range(len(overlaps)):
        if not gone[i]:
            kept.append(i)
            gone |= overlaps[i]
    return kept


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # In float64: the area of a float32 box can be too large for float32.
    with np.errstate(invalid="ignore", over="ignore"):
        inside = np.minimum(a[:, None, 2], b[:, 2])
        inside -= np.maximum(a[:, None, 0], b[:, 0])
        high = np.minimum(a[:, None, 3], b[:, 3])
        high -= np.maximum(a[:, None, 1], b[:, 1])
        np.maximum(inside, 0, out=inside)
        np.maximum(high, 0, out=high)
        inside *= high
        union = np.add(_areas(a)[:, None], _areas(b), out=high)
        union -= inside
        # Where the union is 0, NaN or infinite there is no overlap to speak of.
        return np.divide(inside, union, out=np.zeros_like(union), where=union > 0)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def _checked(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"an array of shape {list(boxes.shape)} holds no boxes", "(N, 4) does")
    if boxes.dtype in (np.float32, np.float64):
        return boxes
    # Halves are too coarse for coordinates: above 2048 they skip every other integer.
    return boxes.astype(np.float32 if boxes.dtype == np.float16 else np.float64)


def _scored(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    boxes = _checked(boxes).astype(np.float64, copy=False)
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(boxes),):
        raise InputError(f"scores of shape {list(scores.shape)} do not fit {len(boxes)} boxes")
    return boxes, scores
