"""How much of the time that sound lasts is spent on it."""

from __future__ import annotations

from collections import deque


class Pace:
    """The real-time factor of the last pieces of sound.

    Args:
        count: how many pieces.
    """

    def __init__(self, count: int) -> None:
        self._taken: deque[tuple[float, float]] = deque(maxlen=count)

    def take(self, milliseconds: float, seconds: float) -> None:
        """So long for so much sound."""
        self._taken.append((milliseconds / 1000, seconds))

    def clear(self) -> None:
        """Begin anew."""
        self._taken.clear()

    @property
    def factor(self) -> float | None:
        """Time spent over time heard; less than 1 keeps up. None: nothing was taken yet."""
        if not self._taken:
            return None
        spent, sound = map(sum, zip(*self._taken, strict=True))
        return round(spent / sound, 4)
