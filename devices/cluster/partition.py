"""Which rank computes what: query heads, key-value heads and feed-forward, by ratio.

Heads are cut where the slowest rank, measured against its share, is fastest. A rank takes every
key-value head that its query heads look at, so that a head may be on two ranks: nine query heads
with three key-value heads run on two ranks as 5 and 4, and on four ranks too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.errors import UsageError

from .language import Language

UNIT = 32  # columns of a feed-forward that stay together: a group of the integer formats


@dataclass(frozen=True)
class Share:
    """One rank's part: half-open ranges of query heads, key-value heads and feed-forward."""

    heads: tuple[int, int]
    kv_heads: tuple[int, int]
    feed_forward: tuple[int, int]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Query heads, key-value heads and feed-forward columns."""
        return tuple(b - a for a, b in (self.heads, self.kv_heads, self.feed_forward))


def partition(language: Language, ratio: Sequence[float]) -> tuple[Share, ...]:
    """The shares of all ranks, in order; every rank has at least one query head.

    Args:
        language: The model.
        ratio: The ranks' parts, positive, of any sum.

    Raises:
        UsageError: there are more ranks than query heads or units of the feed-forward.
    """
    if not ratio or min(ratio) <= 0:
        raise UsageError("a ratio is made of positive numbers", f"not of {list(ratio)}")
    units = -(-language.feed_forward // UNIT)
    if len(ratio) > min(language.heads, units):
        raise UsageError(
            f"the model cannot be cut into {len(ratio)}",
            f"it has {language.heads} query heads and {units} units of {UNIT} in its feed-forward",
        )
    cuts = _cut_heads(language, ratio)
    columns = [min(UNIT * one, language.feed_forward) for one in _cut_units(units, ratio)]
    return tuple(
        Share(
            (cuts[rank], cuts[rank + 1]),
            _kv_heads(language, cuts[rank], cuts[rank + 1]),
            (columns[rank], columns[rank + 1]),
        )
        for rank in range(len(ratio))
    )


def _kv_heads(language: Language, first: int, last: int) -> tuple[int, int]:
    return first // language.group, (last - 1) // language.group + 1


def _cut_heads(language: Language, ratio: Sequence[float]) -> list[int]:
    """Cuts that make the largest of cost / ratio least; a rank's cost is its matrices' rows."""
    total = float(sum(ratio))
    infinite = float("inf")
    best = [[infinite] * (language.heads + 1) for _ in range(len(ratio) + 1)]
    came = [[0] * (language.heads + 1) for _ in range(len(ratio) + 1)]
    best[0][0] = 0.0
    for rank, part in enumerate(ratio):
        for last in range(rank + 1, language.heads + 1):
            for first in range(rank, last):
                kv = _kv_heads(language, first, last)
                cost = (last - first + kv[1] - kv[0]) * total / part
                worst = max(best[rank][first], cost)
                if worst < best[rank + 1][last]:
                    best[rank + 1][last], came[rank + 1][last] = worst, first
    cuts = [language.heads]
    for rank in range(len(ratio), 0, -1):
        cuts.append(came[rank][cuts[-1]])
    return cuts[::-1]


def _cut_units(units: int, ratio: Sequence[float]) -> list[int]:
    """Cuts of equal units by largest remainders, at least one for everybody."""
    free, total = units - len(ratio), float(sum(ratio))
    ideal = [max(units * part / total - 1, 0.0) for part in ratio]
    scale = free / sum(ideal) if sum(ideal) else 0.0
    ideal = [part * scale for part in ideal]
    counts = [int(part + 1e-9) for part in ideal]
    order = sorted(range(len(ratio)), key=lambda rank: counts[rank] - ideal[rank])
    for rank in order[: free - sum(counts)]:
        counts[rank] += 1
    cuts = [0]
    for count in counts:
        cuts.append(cuts[-1] + count + 1)
    return cuts
