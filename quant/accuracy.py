"""Accuracy as figures: how many labelled pictures an artifact tells right, apart from any bound.

What is enough (``edgekit.quant.precision`` has such bounds for parity) is judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.manifest import Accuracy

FIVE = 5


class Tally:
    """Counts right answers, a picture after another.

    Attributes:
        first: the answer to each picture so far: the index of its most likely class.

    >>> tally = Tally()
    >>> tally.add([3, 1, 0], 3)
    >>> tally.add([2, 1, 0], 1)
    >>> tally.accuracy()
    Accuracy(top1=50.0, top5=100.0, samples=2, disagreements=None)
    """

    def __init__(self) -> None:
        self.first: list[int] = []
        self._right = self._among_five = 0

    def add(self, ranked: Sequence[int], truth: int) -> None:
        """Count one picture.

        Args:
            ranked: class indices, most likely first; five of them, or as many as there are.
            truth: the index of the picture's class.
        """
        self.first.append(ranked[0])
        self._right += ranked[0] == truth
        self._among_five += truth in ranked[:FIVE]

    def accuracy(self, reference: Sequence[int] | None = None) -> Accuracy:
        """The figures so far, in percent.

        Args:
            reference: the first answers of another network to the same pictures; with it,
                ``disagreements`` counts the pictures that are answered differently.

        Raises:
            ValueError: nothing was counted, or the reference is of other pictures.
        """
        count = len(self.first)
        if not count:
            raise ValueError("no picture was counted")
        different = None
        if reference is not None:
            pairs = zip(self.first, reference, strict=True)
            different = sum(mine != theirs for mine, theirs in pairs)
        return Accuracy(
            top1=_percent(self._right, count),
            top5=_percent(self._among_five, count),
            samples=count,
            disagreements=different,
        )


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 4)
