"""How true outputs are to a reference, summed over samples: what is measured, apart from bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgekit.manifest import Fidelity

Outputs = Mapping[str, np.ndarray]


class FidelityTally:
    """Adds up one sample after another.

    Args:
        answer: the output whose largest element is the class that a sample is told to be; None
            where the outputs are no classes.
        several: the answer decides once for each of its rows, along its last axis: on a token,
            for one.
    """

    def __init__(self, answer: str | None = None, several: bool = False) -> None:
        self._answer, self._several = answer, several
        self._errors: dict[str, float] = {}
        self._powers: dict[str, float] = {}
        self._count = self._same = self._right = self._labelled = self._decisions = 0

    def add(self, outputs: Outputs, expected: Outputs, label: int | None = None) -> None:
        """One sample: what an artifact gives, what it should, and its class if that is known."""
        self._count += 1
        for name, wanted in expected.items():
            right = wanted.astype(np.float64)
            difference = outputs[name].astype(np.float64) - right
            self._errors[name] = self._errors.get(name, 0.0) + float(np.square(difference).sum())
            self._powers[name] = self._powers.get(name, 0.0) + float(np.square(right).sum())
        if self._answer is None:
            return
        told, wanted = (self._decide(one[self._answer]) for one in (outputs, expected))
        self._decisions += told.size
        self._same += int((told == wanted).sum())
        if label is not None:
            self._labelled += 1
            self._right += int(told[0]) == label

    def _decide(self, answer: np.ndarray) -> np.ndarray:
        rows = answer.reshape(-1, answer.shape[-1]) if self._several else answer.reshape(1, -1)
        return rows.argmax(-1)

    def fidelity(self) -> Fidelity:
        """The figures so far.

        Raises:
            ValueError: nothing was added.
        """
        if not self._count:
            raise ValueError("no sample was added")
        nmse = max(
            (_ratio(error, self._powers[name]) for name, error in self._errors.items()),
            default=0.0,
        )
        classes = self._answer is not None
        return Fidelity(
            samples=self._count,
            nmse=nmse,
            agreement=round(100 * self._same / self._decisions, 4) if classes else None,
            top1=round(100 * self._right / self._labelled, 4) if self._labelled else None,
        )


def drop_of(found: Fidelity, reference: Fidelity) -> float:
    """What was lost: points of top-1, else points of agreement, else 100 times the NMSE."""
    if found.top1 is not None and reference.top1 is not None:
        return round(reference.top1 - found.top1, 4)
    if found.agreement is not None:
        return round(100.0 - found.agreement, 4)
    return 100.0 * found.nmse


def drop_unit(found: Fidelity) -> str:
    """What :func:`drop_of` counts, in words."""
    if found.top1 is not None:
        return "points of top-1"
    return "points of agreement" if found.agreement is not None else "% of the signal (NMSE)"


def _ratio(error: float, power: float) -> float:
    if not math.isfinite(error):
        return math.inf
    if power == 0.0:
        return 0.0 if error == 0.0 else math.inf
    return error / power
