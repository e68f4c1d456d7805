"""Where the marks of the report's charts go.

All horizontal positions are percentages of a plot's width, as text (``"12.50%"``): the
template draws them in SVG without a view box, so that a chart grows and shrinks with the
page while its text and strokes keep their size. Nothing here draws, and nothing here
escapes: the template does both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .report_words import NONE, distance, milliseconds, power_of_ten, scientific

#: Positions of the parity plot: a place for exact zeros, the log axis, a place for infinity.
EXACT_X: Final = 2.5
LOG_LEFT, LOG_RIGHT = 17.0, 90.0
BEYOND_X: Final = 97.0


@dataclass(frozen=True)
class Tick:
    """A grid line. ``anchor`` is the SVG text-anchor that keeps the label inside."""

    x: str
    label: str
    anchor: str = "middle"


@dataclass(frozen=True)
class ParityMark:
    """One row of the parity plot.

    ``kind`` is ``exact`` (zero), ``point``, ``beyond`` (infinite or not a number) or
    ``none`` (nothing was compared). ``tone`` is as in :class:`report_words.Verdict`.
    """

    label: str
    group: str
    kind: str
    tone: str
    x: str
    limit: str | None
    beyond_limit: str  # width of what lies right of the limit
    value: str
    said: str


@dataclass(frozen=True)
class ParityPlot:
    """The rows and the axis of the parity plot."""

    rows: tuple[ParityMark, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class ParityEntry:
    """What the parity plot shows of one artifact: its place, a figure and its limit."""

    label: str
    group: str
    tone: str
    nmse: float | None
    limit: float | None
    absent: str  # said where there is no figure


@dataclass(frozen=True)
class Bar:
    """One horizontal bar from zero."""

    label: str
    group: str
    width: str
    value: str
    tone: str = ""
    note: str = ""


@dataclass(frozen=True)
class Whisker:
    """A bar to the median with whiskers to p90 and p99; ``cut`` where p99 leaves the plot."""

    median: str
    p90: str | None
    p99: str | None
    cut: bool
    value: str
    summary: str


def percent(value: float) -> str:
    """A position as SVG wants it."""
    return f"{value:.2f}%"


def _positive(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _decades(entries: Sequence[ParityEntry]) -> tuple[int, int]:
    """The powers of ten that hold all finite figures and limits, at least four decades."""
    finite = [v for e in entries for v in (e.nmse, e.limit) if v is not None and _positive(v)]
    if not finite:
        return -16, 0
    low = math.floor(math.log10(min(finite)))
    high = math.ceil(math.log10(max(finite)))
    # Room to the right of the limit shows what failing would look like.
    high = max(high + 1, low + 4)
    return low, high


def parity_plot(entries: Sequence[ParityEntry]) -> ParityPlot:
    """Place each NMSE and its limit on a log axis; zero and infinity have their own places."""
    low, high = _decades(entries)

    def at(exponent: float) -> float:
        share = (exponent - low) / (high - low)
        return LOG_LEFT + share * (LOG_RIGHT - LOG_LEFT)

    step = max(1, math.ceil((high - low) / 5))
    ticks = [Tick(percent(EXACT_X), "exact")]
    for exponent in range(low, high + 1, step):
        ticks.append(Tick(percent(at(exponent)), power_of_ten(exponent)))
    if any(e.nmse is not None and _kind(e.nmse) == "beyond" for e in entries):
        ticks.append(Tick(percent(BEYOND_X), "∞"))
    marks = (_mark(e, lambda value: at(math.log10(value))) for e in entries)
    return ParityPlot(tuple(marks), tuple(ticks))


def _kind(nmse: float) -> str:
    if nmse == 0:
        return "exact"
    return "point" if _positive(nmse) else "beyond"


def _mark(entry: ParityEntry, place: Callable[[float], float]) -> ParityMark:
    limit = entry.limit if _positive(entry.limit) else None
    limit_x = place(limit) if limit is not None else 100.0
    kind, x, value, said = "none", 0.0, NONE, entry.absent
    if entry.nmse is not None:
        kind = _kind(entry.nmse)
        x = {"exact": EXACT_X, "beyond": BEYOND_X}.get(kind) or place(entry.nmse)
        value = distance(entry.nmse)
        said = f"NMSE {value}" + (f", limit {scientific(limit)}" if limit is not None else "")
    return ParityMark(
        label=entry.label,
        group=entry.group,
        kind=kind,
        tone=entry.tone,
        x=percent(x),
        limit=percent(limit_x) if limit is not None else None,
        beyond_limit=percent(100 - limit_x),
        value=value,
        said=said,
    )


def nice_ticks(top: float, most: int = 5) -> list[float]:
    """Round values from 0 to at most ``top``, in steps of 1, 2 or 5 times a power of ten."""
    if not top > 0:
        return [0.0]
    raw = top / most
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(m * base for m in (1, 2, 5, 10) if m * base >= raw * (1 - 1e-9))
    return [i * step for i in range(math.floor(top / step * (1 + 1e-9)) + 1)]


def value_ticks(top: float) -> tuple[Tick, ...]:
    """Grid lines of a linear axis from 0 to ``top``, labels kept inside the plot."""
    ticks = []
    for value in nice_ticks(top):
        x = 100 * value / top if top > 0 else 0.0
        anchor = "start" if x < 4 else "end" if x > 96 else "middle"
        ticks.append(Tick(percent(x), f"{value:g}", anchor))
    return tuple(ticks)


def bar_width(value: float, top: float) -> str:
    """A bar's width where ``top`` fills the plot; what is not zero stays visible."""
    if not value > 0 or not top > 0:
        return percent(0)
    return percent(max(0.4, 100 * value / top))


def latency_top(series: Iterable[dict[str, float | None]]) -> float:
    """Where a latency axis ends: at the largest p99, unless one outlier would flatten the rest.

    An outlier is a p99 of more than three times every p90; the axis then ends a little
    beyond the p90s and the whisker is drawn cut.
    """
    medians, p90s, p99s = [], [], []
    for figures in series:
        median = figures.get("p50") or 0.0
        p90 = figures.get("p90") or median
        medians.append(median)
        p90s.append(max(p90, median))
        p99s.append(max(figures.get("p99") or p90, median))
    if not medians:
        return 0.0
    calm, worst = max(p90s), max(p99s)
    return calm * 1.25 if worst > 3 * calm else worst * 1.02


def whisker(name: str, figures: dict[str, float | None], top: float) -> Whisker | None:
    """Place one bar with its whiskers; None where there is no median."""
    median = figures.get("p50")
    if median is None or not top > 0:
        return None
    p90, p99 = figures.get("p90"), figures.get("p99")
    cut = p99 is not None and p99 > top
    said = [f"{key} {milliseconds(figures.get(key))} ms" for key in ("p50", "p90", "p99")]
    return Whisker(
        median=bar_width(median, top),
        p90=percent(min(100.0, 100 * p90 / top)) if p90 is not None else None,
        p99=percent(min(100.0, 100 * p99 / top)) if p99 is not None else None,
        cut=cut,
        value=f"{milliseconds(median)} ms",
        summary=f"{name}: {', '.join(said)}",
    )
