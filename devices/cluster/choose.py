"""Which algorithm sums fastest on the links that are there: each is tried, at several sizes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .collectives import ALGORITHMS, Group

SIZES: Final = (2 << 10, 16 << 10, 64 << 10, 512 << 10)  # bytes
SECONDS: Final = 0.4  # that an algorithm is tried at one size, about
PREFERENCE: Final = 0.92  # of the star's time that another must stay below
_FIRST: Final = 4  # sums of the first trial
_ROUNDS: Final = 12  # of further trials at most
_FEW: Final = 3  # where a sum takes long
_HOPELESS: Final = 2.5  # times the fastest, after which an algorithm is not tried again
_STEPS: Final = 4  # per doubling of the size, at which the tried ones are compared


@dataclass(frozen=True)
class Timings:
    """What was measured.

    Attributes:
        algorithms: that could be tried. sizes: bytes. seconds: per algorithm, per size.
    """

    algorithms: tuple[str, ...]
    sizes: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]

    def at(self, algorithm: str, size: float) -> float:
        """Seconds that a sum of so many bytes takes, between the measured ones in proportion."""
        row = self.seconds[self.algorithms.index(algorithm)]
        if size > self.sizes[-1] and len(self.sizes) > 1:
            slope = (row[-1] - row[-2]) / (self.sizes[-1] - self.sizes[-2])
            return row[-1] + max(slope, 0.0) * (size - self.sizes[-1])
        return float(np.interp(size, self.sizes, row))

    def choice(self) -> list[tuple[int, str]]:
        """From how many bytes on which algorithm is taken, ascending; the first from 0 on."""
        grid = np.geomspace(self.sizes[0], 64 * self.sizes[-1], _STEPS * 14)
        made: list[tuple[int, str]] = []
        for size in grid:
            best = self._best(float(size))
            if not made or made[-1][1] != best:
                made.append((int(size) if made else 0, best))
        return made

    def _best(self, size: float) -> str:
        def judged(name: str) -> float:
            return self.at(name, size) * (PREFERENCE if name == self.algorithms[0] else 1.0)

        return min(self.algorithms, key=judged)


def choose(group: Group, sizes: Sequence[int] = SIZES, seconds: float = SECONDS) -> Timings:
    """Try every algorithm for which all ranks have the links; all ranks call this together.

    The group uses the fastest from now on. Rank 0 decides by its own clock, which sees the whole
    of a sum, and tells the others.

    Raises:
        PeerLost: a peer is gone, or silent for too long.
    """
    names = _shared(group)
    table = np.zeros((len(names), len(sizes)), np.float64)
    for column, size in enumerate(sizes):
        table[:, column] = _tried(group, names, np.zeros(size // 4, np.float32), seconds)
    group.broadcast(table)
    found = Timings(names, tuple(sizes), tuple(map(tuple, table.tolist())))
    group.choice = found.choice()
    return found


def _shared(group: Group) -> tuple[str, ...]:
    """The algorithms that every rank has the links for; with two ranks the exchange comes first,
    since it is the star with one hop less."""
    flags = np.array([name in group.available for name in ALGORITHMS], np.int8)
    gathered = group.gather(flags)
    if gathered is not None:
        flags = np.minimum.reduce(gathered)
    group.broadcast(flags)
    names = tuple(name for name, flag in zip(ALGORITHMS, flags, strict=True) if flag)
    return tuple(sorted(names, key="doubling".__ne__)) if group.size == 2 else names


def _tried(group: Group, names: Sequence[str], values: np.ndarray, seconds: float) -> list[float]:
    """Seconds of a sum by each algorithm; those that are near the fastest are tried again, in
    turns, so that what disturbs one disturbs all."""
    for name in names:
        _batch(group, name, values, _FIRST)  # buffers and TCP windows grow in the first
    times = [[_batch(group, name, values, _FIRST)] for name in names]
    plan = np.array([_plan(row[0], min(times)[0], seconds) for row in times], np.int64)
    group.broadcast(plan)
    for turn in range(_ROUNDS):
        for name, (rounds, count), row in zip(names, plan.tolist(), times, strict=True):
            if turn < rounds:
                row.append(_batch(group, name, values, count))
    return [min(row) for row in times]


def _plan(first: float, best: float, seconds: float) -> tuple[int, int]:
    """How many further rounds, of how many sums: many short ones, since some fall into a moment
    in which the machine does nothing else."""
    if first > _HOPELESS * best:
        return 0, 0
    # Even: where two ranks wait for each other in turns, every other sum looks short.
    count = 2 * max(2, min(50, int(seconds / _ROUNDS / max(first, 1e-6) / 2)))
    return (_ROUNDS if count > 4 else _FEW), count


def _batch(group: Group, name: str, values: np.ndarray, count: int) -> float:
    # From the end of one to the end of another: in the first, the others may have run ahead, and
    # TCP sends less after a pause.
    for _ in range(2):
        group.all_reduce_by(name, values)
    began = time.perf_counter()
    for _ in range(count):
        group.all_reduce_by(name, values)
    return (time.perf_counter() - began) / count
