"""The history as one self-contained HTML page: a chart a model and machine, and every figure.

No template engine: a device has none, and history is kept where something was measured.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from .history import Series

_WIDTH, _HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 28
_TICKS = 4
# Told apart also by people who see no red or green (Okabe and Ito), and by dashes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("", "6 3", "2 3")

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
h2 { margin-top: 2.5rem } h2 small { font-weight: normal; color: #555; display: block }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #ddd }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
svg { max-width: 100%; height: auto } svg text { font-size: 12px; fill: #444 }
.worse { color: #a02000; font-weight: 600 } .better { color: #00603a }
@media (prefers-color-scheme: dark) { body { color: #e8e8e8; background: #161616 }
  th, td { border-color: #444 } svg text { fill: #bbb } h2 small { color: #aaa }
  .worse { color: #ff9a80 } .better { color: #6fd3a0 } }
"""
_NOTABLE = 0.05  # a change of the median by less is not marked: machines are not that steady


def page(found: Sequence[Series]) -> str:
    """The page. The same lines give the same text."""
    charts = "\n".join(_section(list(group)) for _, group in groupby(found, _place))
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>edgekit: measured over time</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        "<h1>Measured over time</h1>\n<p>Medians of the latency from input to answer. Lines "
        "compare only within one chart: each is of one model on one kind of machine.</p>\n"
        f"{charts or '<p>Nothing was saved yet.</p>'}\n</body>\n</html>\n"
    )


def _place(one: Series) -> tuple[str, str]:
    return one.model, one.machine


def _section(lines: list[Series]) -> str:
    model, machine = _place(lines[0])
    legend = "".join(
        f'<tr><td>{_sample(index)}</td><td>{escape(one.label)}</td><td class="n">'
        f"{one.points[-1].p50_ms:.2f}</td></tr>"
        for index, one in enumerate(lines)
    )
    rows = "\n".join(row for one in lines for row in _rows(one))
    return (
        f"<h2>{escape(model)}<small>{escape(machine)}</small></h2>\n{_chart(lines)}\n"
        f'<table><tr><th></th><th>line</th><th class="n">latest p50 ms</th></tr>{legend}</table>\n'
        f"<details><summary>Every measurement</summary>\n<table>\n<tr><th>when (UTC)</th>"
        '<th>line</th><th class="n">p50 ms</th><th class="n">p90</th><th class="n">change</th>'
        f"<th>what changed</th></tr>\n{rows}\n</table></details>"
    )


def _rows(one: Series) -> Iterator[str]:
    for point in one.points:
        p90 = "" if point.p90_ms is None else f"{point.p90_ms:.2f}"
        yield (
            f"<tr><td>{escape(point.at)}</td><td>{escape(one.label)}</td>"
            f'<td class="n">{point.p50_ms:.2f}</td><td class="n">{p90}</td>'
            f'<td class="n {_tone(point.ratio)}">{percent(point.ratio)}</td>'
            f"<td>{escape('; '.join(point.changed))}</td></tr>"
        )


def percent(ratio: float | None) -> str:
    """A ratio to the measurement before as a change: ``+12.0 %``."""
    return "" if ratio is None else f"{100 * (ratio - 1):+.1f} %"


def _tone(ratio: float | None) -> str:
    if ratio is None or abs(ratio - 1) <= _NOTABLE:
        return ""
    return "worse" if ratio > 1 else "better"


def _stroke(index: int) -> str:
    dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
    return f'stroke="{_COLOURS[index % len(_COLOURS)]}"' + (
        f' stroke-dasharray="{dash}"' if dash else ""
    )


def _sample(index: int) -> str:
    return (
        '<svg width="28" height="10" aria-hidden="true"><line x1="0" y1="5" x2="28" y2="5" '
        f'stroke-width="2" {_stroke(index)}/></svg>'
    )


def _chart(lines: list[Series]) -> str:
    """Points in the order of time, at equal distances: a year and a minute are one step each."""
    moments = sorted({point.at for one in lines for point in one.points})
    top = max(point.p50_ms for one in lines for point in one.points) * 1.1 or 1.0
    across = (_WIDTH - _LEFT - _RIGHT) / max(1, len(moments) - 1)
    place = {at: _LEFT + index * across for index, at in enumerate(moments)}

    def height(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top

    parts = []
    for tick in range(_TICKS + 1):
        value = top * tick / _TICKS
        y = height(value)
        parts.append(
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" '
            f'stroke="#8884"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{value:.3g}</text>"
        )
    for index, one in enumerate(lines):
        spots = [(place[point.at], height(point.p50_ms)) for point in one.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke-width="2" {_stroke(index)}/>'
            + "".join(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_COLOURS[index % len(_COLOURS)]}">'
                f"<title>{escape(one.label)}: {point.p50_ms:.2f} ms, {escape(point.at)}"
                f"{escape(''.join(f', {what}' for what in point.changed))}</title></circle>"
                for (x, y), point in zip(spots, one.points, strict=True)
            )
        )
    ends = (
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{escape(moments[0][:10])}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">'
        f"{escape(moments[-1][:10])}</text>"
    )
    name = escape(f"{lines[0].model}: milliseconds over {len(moments)} measurements")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{name}">'
        f"{''.join(parts)}{ends}</svg>"
    )
