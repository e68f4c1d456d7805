"""The timings of the report: rows of ``edgekit bench --json``, grouped by the host they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import report_charts as charts
from . import report_words as words

_PERCENTILES = ("min", "p50", "p90", "p99")


def hosts(measurements: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One view per kind of host, in order of appearance; times compare only within one.

    Rows belong together when their hosts have one fingerprint, or else are described alike;
    of several descriptions (the load differs from run to run) the latest is shown.
    """
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in measurements:
        host = _described(row)
        mark = row.get("host_fingerprint") or host.get("fingerprint")
        grouped.setdefault(words.plain(mark or host), []).append(row)
    return [_host(rows) for rows in grouped.values()]


def _described(row: Mapping[str, Any]) -> Mapping[str, Any]:
    host = row.get("host")
    return host if isinstance(host, Mapping) else {}


def _host(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    latest = max(rows, key=lambda row: words.plain(row.get("measured_at", "")))
    host = _described(latest)
    series = [(row, _figures(row, "latency_ms"), _figures(row, "engine_ms")) for row in rows]
    series.sort(key=lambda s: (s[1].get("p50") or float("inf"), _label(s[0])))
    top = charts.latency_top(figures for _, *both in series for figures in both)
    name_key = next((k for k in ("name", "hostname", "cpu", "model") if host.get(k)), None)
    return {
        "name": words.plain(host[name_key]) if name_key else "a host that was not recorded",
        "facts": [
            (k.replace("_", " "), words.listed(v))
            for k, v in host.items()
            if k not in (name_key, "fingerprint") and v not in (None, "", {}, [])
        ],
        "measured": words.plain(latest.get("measured_at", "")),
        "rows": [_row(*one, top=top) for one in series],
        "ticks": charts.value_ticks(top),
        "has_engine": any(engine.get("p50") is not None for _, _, engine in series),
    }


def _label(row: Mapping[str, Any]) -> str:
    threads = row.get("threads")
    many = "default threads"
    if threads:
        many = f"{words.plain(threads)} thread{'' if threads == 1 else 's'}"
    return f"{words.plain(row.get('runtime', 'runtime'))} · {many}"


def _figures(row: Mapping[str, Any], key: str) -> dict[str, float | None]:
    figures = row.get(key)
    figures = figures if isinstance(figures, Mapping) else {}
    return {p: words.number(figures.get(p)) for p in _PERCENTILES}


def _row(
    row: Mapping[str, Any],
    latency: dict[str, float | None],
    engine: dict[str, float | None],
    top: float,
) -> dict[str, Any]:
    label = _label(row)
    asked = words.plain(row.get("precision") or words.NONE)
    used = words.plain(row.get("effective_precision") or asked)
    return {
        "label": label,
        "precision": used,
        "asked": asked if used != asked else "",
        "end_to_end": charts.whisker(f"{label}, end to end", latency, top),
        "engine": charts.whisker(f"{label}, engine only", engine, top),
        "latency": [words.milliseconds(latency[p]) for p in _PERCENTILES],
        "engine_p50": words.milliseconds(engine["p50"]),
        "throughput": _figure(row.get("throughput"), "{:,.1f}"),
        "memory": _figure(row.get("peak_rss_mb"), "{:,.0f}"),
        "load": words.milliseconds(words.number(row.get("load_ms"))),
    }


def _figure(value: Any, form: str) -> str:
    number = words.number(value)
    return words.NONE if number is None else form.format(number)
