"""From a picture's features and embedded classes to scored boxes: the detection graph's part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgekit.errors import ParityError

from .detector_prompts import batch_limit, check_contract, fill_batch
from .sessions.base import Session

_INPUTS = ("features", "text_features", "attention_mask")
_OUTPUTS = ("boxes", "logits", "presence")
_EXTRAS = ("memory", "queries")  # what outlines are drawn of


@dataclass(frozen=True, eq=False)
class Candidates:
    """Boxes above the threshold, of all classes.

    Attributes:
        boxes: (K, 4) float32, x1, y1, x2, y2 in shares of the network's input.
        scores: (K,) float32. classes: (K,) int64. queries: (K,) int64, which of its class.
        extras: class -> what outlines are drawn of, of classes that have a box.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    queries: np.ndarray
    extras: Mapping[int, Mapping[str, np.ndarray]] = field(default_factory=dict)


def score(logits: np.ndarray, presence: np.ndarray) -> np.ndarray:
    """sigmoid(logit) times sigmoid(presence), on every runtime.

    Args:
        logits: (N, queries). presence: (N, 1), whether the class is in the picture at all.

    Returns:
        (N, queries) float32.
    """
    return _sigmoid(logits) * _sigmoid(presence)


def chunk_size(session: Session, class_bytes: int, memory: int | None) -> int:
    """How many classes to look for at once: what the graph takes, and what memory allows.

    Args:
        class_bytes: what one class more costs. memory: bytes that classes may take; None: no
            other bound than the graph's. One class is looked for in any case.
    """
    most = batch_limit(session, "text_features")
    return most if memory is None else max(1, min(most, memory // max(class_bytes, 1)))


class DetectionHead:
    """The detection graph, asked in chunks of classes.

    Args:
        session: of the detection graph. chunk: classes at once.

    Attributes:
        runs: how often the graph ran.

    Raises:
        BundleError: (on construction) the graph is none for detection.
    """

    def __init__(self, session: Session, chunk: int) -> None:
        check_contract(session, _INPUTS, _OUTPUTS)
        self.session, self.chunk, self.runs = session, chunk, 0

    def find(
        self,
        features: np.ndarray,
        text: tuple[np.ndarray, np.ndarray],
        threshold: float,
        keep_extras: bool = False,
    ) -> Candidates:
        """All boxes that score at least ``threshold``.

        Args:
            features: of the vision graph. text: features and masks of N classes.
            keep_extras: keep what outlines are drawn of.

        Raises:
            ParityError: an output is not finite: the artifact is broken.
        """
        if keep_extras:
            check_contract(self.session, _INPUTS, (*_OUTPUTS, *_EXTRAS))
        parts, extras = [], {}
        for first, outputs in self._chunks(features, *text):
            scores = score(outputs["logits"], outputs["presence"])
            rows, queries = np.nonzero(scores >= threshold)
            parts.append(
                (outputs["boxes"][rows, queries], scores[rows, queries], rows + first, queries)
            )
            if keep_extras:
                for row in np.unique(rows).tolist():
                    extras[row + first] = {
                        name: outputs[name][row : row + 1].copy() for name in _EXTRAS
                    }
        boxes, scores, classes, queries = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        return Candidates(boxes.astype(np.float32, copy=False), scores, classes, queries, extras)

    def _chunks(
        self, features: np.ndarray, text: np.ndarray, masks: np.ndarray
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for first in range(0, len(text), self.chunk):
            part = slice(first, first + self.chunk)
            inputs = {
                "features": features,
                "text_features": text[part],
                "attention_mask": masks[part],
            }
            count = len(inputs["text_features"])
            self.runs += 1
            outputs = self.session.run(fill_batch(self.session, inputs))
            mine = {name: array[:count] for name, array in outputs.items()}
            self._check(mine)
            yield first, mine

    def _check(self, outputs: Mapping[str, np.ndarray]) -> None:
        for name in _OUTPUTS:
            if not np.isfinite(outputs[name]).all():
                raise ParityError(
                    f"the {name} are not finite",
                    f"{self.session.runtime} overflows in this artifact",
                    "export it in fp32, or with another target",
                )


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # Both forms are exact where they are used; neither overflows there.
    x = x.astype(np.float32, copy=False)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)
