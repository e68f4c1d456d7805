"""Outputs whose rows a network picked: rows are matched by what they are of, then compared.

A head that evaluates only the best candidates gives them in the order of their scores. Two
scores that differ by a rounding error change places from runtime to runtime, and at the end
of the list one candidate may take another's place, without the network being any less the
same. So rows are brought into one order by their keys (which cell, which class), and those
that only one side picked are left out, as long as a tie with the last one picked explains
them. What rows were picked by is compared in descending order, all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.manifest import PickedRows

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Matched:
    """Both sides with the rows that both picked, in one order.

    Attributes:
        actual, wanted: by output's name. What rows were picked by has all its values.
        share: of the reference's rows that both picked.
        unexplained: how many rows one side alone picked although they are no ties.
    """

    actual: dict[str, np.ndarray]
    wanted: dict[str, np.ndarray]
    share: float = 0.0
    unexplained: int = 0


def matched(actual: Outputs, wanted: Outputs, picked: PickedRows) -> Matched:
    """Match the rows of an artifact's outputs with the reference's.

    Outputs of another number of rows are handed back as they are.
    """
    ours, theirs = _keys(actual, picked), _keys(wanted, picked)
    if ours.shape != theirs.shape:
        return Matched(dict(actual), dict(wanted))
    _, at, place = np.intersect1d(ours, theirs, return_indices=True)
    sides = []
    for outputs, rows in ((actual, at), (wanted, place)):
        chosen = {name: value[rows] for name, value in outputs.items()}
        chosen[picked.by] = np.sort(outputs[picked.by], axis=0)[::-1]
        sides.append(chosen)
    left = _unexplained(actual[picked.by], wanted[picked.by], at, place)
    return Matched(*sides, at.size / max(theirs.size, 1), left)


def _unexplained(actual: np.ndarray, wanted: np.ndarray, at: np.ndarray, place: np.ndarray) -> int:
    """Rows of one side alone that are further above the last one picked than values err."""
    ours, theirs = (np.asarray(side, np.float64).reshape(-1) for side in (actual, wanted))
    if not np.isfinite(ours).all():
        return 0  # which comparing finds by itself
    errors = [np.abs(np.sort(ours) - np.sort(theirs)), np.abs(ours[at] - theirs[place])]
    error = max(float(one.max(initial=0.0)) for one in errors)
    slack = 4 * error + 1e-6 * float(np.abs(theirs).max(initial=0.0))
    alone = (np.delete(ours, at), np.delete(theirs, place))
    ends = (ours.min(initial=np.inf), theirs.min(initial=np.inf))
    return sum(int((one > end + slack).sum()) for one, end in zip(alone, ends, strict=True))


def _keys(outputs: Outputs, picked: PickedRows) -> np.ndarray:
    """(rows,) one number for each row; keys are whole numbers from 0, below 2**24 each."""
    keys = np.zeros(len(outputs[picked.by]), np.int64)
    for name in picked.keys:
        keys = (keys << 24) + np.rint(outputs[name].reshape(-1)).astype(np.int64)
    return keys
