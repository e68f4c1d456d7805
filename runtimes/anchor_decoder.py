"""From the raw outputs of an anchor-based detector to candidate boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .anchors import grid_anchors, level_counts
from .boxes import clip_boxes, decode_deltas


class Candidates(NamedTuple):
    """Boxes before non-maximum suppression: (N, 4) corners, (N,) scores, (N,) classes."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class AnchorDecoder:
    """RetinaNet's outputs, decoded as MMDetection does it (its nms_pre and score_thr).

    Attributes:
        strides, octave_base_scale, scales_per_octave, ratios: of the anchors, see
            :func:`.anchors.grid_anchors`.
        delta_std: what the deltas are multiplied with.
        score_threshold: only what scores more is a candidate.
        candidates: how many pairs of anchor and class each level contributes at most.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    octave_base_scale: float = 4.0
    scales_per_octave: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    delta_std: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    score_threshold: float = 0.05
    candidates: int = 1000

    def counts(self, size: tuple[int, int]) -> list[int]:
        """How many anchors each level has for an input of ``size`` (height, width)."""
        return level_counts(size, self.strides, len(self.ratios) * self.scales_per_octave)

    def decode(
        self,
        logits: np.ndarray,
        deltas: np.ndarray,
        size: tuple[int, int],
        valid: tuple[int, int],
    ) -> Candidates:
        """The best of each level, as boxes.

        Args:
            logits: (A, classes); a score is the sigmoid of its logit. deltas: (A, 4).
            size: (height, width) of the network's input; it has A anchors.
            valid: (height, width) of the picture in it; boxes are cut at its borders, and
                those of which nothing is left are left out.
        """
        chosen, start = [], 0
        for count in self.counts(size):
            level = logits[start : start + count]
            chosen.append(self._best(level) + start * logits.shape[1])
            start += count
        pairs = np.concatenate(chosen)
        places, classes = np.divmod(pairs, logits.shape[1])
        anchors = grid_anchors(
            size, self.strides, self.octave_base_scale, self.scales_per_octave, self.ratios
        )
        found = decode_deltas(anchors[places], deltas[places].astype(np.float32), self.delta_std)
        boxes = clip_boxes(found, valid)
        left = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        scores = _sigmoid(logits.reshape(-1)[pairs[left]])
        return Candidates(boxes[left], scores, classes[left])

    def _best(self, logits: np.ndarray) -> np.ndarray:
        """Indices into the flattened (anchors, classes) of one level, in ascending order."""
        flat = logits.reshape(-1)
        # The threshold as a logit: the sigmoid of millions of numbers is not needed.
        above = np.flatnonzero(flat > _logit(self.score_threshold))
        if above.size <= self.candidates:
            return above
        values = flat[above]
        least = np.partition(values, -self.candidates)[-self.candidates]
        better = above[values > least]
        # Of equal ones the first, so that the answer does not depend on NumPy's partition.
        tied = above[values == least][: self.candidates - better.size]
        return np.sort(np.concatenate([better, tied]))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # exp(1000) is infinite and its sigmoid right: 0
        return 1 / (1 + np.exp(-logits.astype(np.float64)))


def _logit(score: float) -> float:
    if not 0 < score < 1:
        return -math.inf if score <= 0 else math.inf
    return math.log(score / (1 - score))
