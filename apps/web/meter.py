"""Latencies of the last seconds: percentiles, frames a second, and how many were dropped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

WINDOW: Final = 10.0  # seconds that figures are of
MOST: Final = 4096  # frames kept, however many there were


@dataclass(frozen=True)
class Figures:
    """What the meter shows.

    Attributes:
        number: of this reading, counted. frames: all of them. dropped: of those that came.
        fps: frames a second over the window. p50, p99: of the model, ms; None: no frame yet.
        wait: p50 of what a frame waited for the model, ms.
    """

    number: int
    frames: int
    dropped: int
    fps: float
    p50: float | None
    p99: float | None
    wait: float | None

    def to_json(self) -> dict[str, Any]:
        """The attributes, times rounded to microseconds."""
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


class Meter:
    """Takes what each frame took, and reads out figures of the last seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken: deque[tuple[float, float, float]] = deque(maxlen=MOST)
        self._frames = self._readings = 0
        self._since = clock()
        self.dropped = 0

    def take(self, model: float, wait: float = 0.0) -> None:
        """One frame: ms that the model took, ms that the frame waited for it."""
        self._frames += 1
        self._taken.append((self._clock(), model, wait))

    def clear(self) -> None:
        """Begin anew: another model, or another runtime, took over. Counts go on."""
        self._taken.clear()
        self._since = self._clock()

    def read(self) -> Figures:
        """The figures now."""
        now = self._clock()
        while self._taken and self._taken[0][0] < now - WINDOW:
            self._taken.popleft()
        self._readings += 1
        counts = (self._readings, self._frames, self.dropped)
        if not self._taken:
            return Figures(*counts, 0.0, None, None, None)
        _, model, wait = np.array(self._taken).T
        p50, p99 = (float(value) for value in np.percentile(model, (50, 99)))
        span = min(now - self._since, WINDOW)
        fps = len(self._taken) / span if span > 0 else 0.0
        return Figures(*counts, fps, p50, p99, float(np.median(wait)))
