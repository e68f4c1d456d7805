"""From what a lidar detector's head gives to boxes: the best candidates, without doubles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .rotated_boxes import nms

_SIZES: Final = slice(3, 6)


@dataclass(frozen=True)
class Suppression:
    """How doubles are told.

    Attributes:
        thresholds: per class, the overlap from above which the worse box is left out; None
            leaves all of that class.
        quarter_turn: as in :func:`.rotated_boxes.nms`.
        candidates: of a class, looked at. limit: of a class, kept.
    """

    thresholds: tuple[float | None, ...]
    quarter_turn: bool = False
    candidates: int = 4096
    limit: int = 500


@dataclass(frozen=True, eq=False)
class Boxes:
    """What was found, best first.

    Attributes:
        boxes: (N, 7) float32 x, y, z, length, width, height in metres, heading in radians.
        scores: (N,) 0 to 1. classes: (N,) int64. velocities: (N, 2) m/s along x and y, or None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    velocities: np.ndarray | None = None

    def __getitem__(self, which: np.ndarray) -> Boxes:
        velocities = None if self.velocities is None else self.velocities[which]
        return Boxes(self.boxes[which], self.scores[which], self.classes[which], velocities)


def candidates(
    scores: np.ndarray,
    boxes: np.ndarray,
    overlap: np.ndarray,
    classes: np.ndarray,
    cells: np.ndarray,
) -> tuple[Boxes, np.ndarray]:
    """What a head picked, best first; of equal scores the earlier cell's comes first.

    Args:
        scores: (Q, 1). boxes: (Q, 8 or more): x, y, z, sides, cosine and sine of the heading,
            perhaps a velocity. overlap: (Q, 1), -1 to 1. classes, cells: (Q,).

    Returns:
        the boxes, and (Q,) their expected overlap.
    """
    order = np.lexsort((classes, cells, -scores[:, 0]))
    return _boxes(boxes[order], scores[order, 0], classes[order]), overlap[order, 0]


def _boxes(raw: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> Boxes:
    heading = np.arctan2(raw[:, 7], raw[:, 6])
    velocities = raw[:, 8:10] if raw.shape[1] >= 10 else None
    found = np.concatenate([raw[:, :6], heading[:, None]], axis=1)
    return Boxes(found, scores, classes.astype(np.int64), velocities)


def rectified(found: Boxes, overlap: np.ndarray, exponents: Sequence[float]) -> Boxes:
    """Scores weighed with the expected overlap: s^(1-a) * ((o + 1) / 2)^a, a by class."""
    share = np.array(exponents, np.float32)[found.classes]
    quality = np.clip((overlap + 1) * np.float32(0.5), 0, 1)
    scores = found.scores ** (1 - share) * quality**share
    return Boxes(found.boxes, scores, found.classes, found.velocities)


def suppressed(found: Boxes, rule: Suppression) -> Boxes:
    """Without doubles within each class, best first."""
    kept = []
    for index, threshold in enumerate(rule.thresholds):
        own = np.flatnonzero(found.classes == index)
        if threshold is not None and own.size:
            own = own[np.argsort(-found.scores[own], kind="stable")][: rule.candidates]
            own = own[
                nms(
                    found.boxes[own],
                    found.scores[own],
                    threshold,
                    quarter_turn=rule.quarter_turn,
                    limit=rule.limit,
                )
            ]
        kept.append(own)
    which = np.concatenate(kept)
    return found[which[np.argsort(-found.scores[which], kind="stable")]]


def within(found: Boxes, threshold: float, limits: Sequence[float]) -> np.ndarray:
    """(N,) which boxes score more than ``threshold`` and have their centre in the limits.

    Args:
        limits: least x, y, z, then greatest, in metres.
    """
    centre = found.boxes[:, :3]
    low, high = np.array(limits[:3]), np.array(limits[3:])
    inside = ((centre >= low) & (centre <= high)).all(1)
    return inside & (found.scores > threshold) & (found.boxes[:, _SIZES] > 0).all(1)
