"""The section of the report that puts the precisions of a quantised network side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgekit.manifest import Manifest

from ..quant.comparison import compare_precisions
from . import report_charts as charts
from . import report_words as words

_SHOWN = 20  # layers of the sensitivity plot
_TONES: Final = {"fp32": "base", "fp16": "base", "bf16": "base"}


def precisions(manifest: Manifest, timings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The section's view; None for a network that is not quantised.

    Args:
        timings: as :func:`edgekit.measurements.precisions_for` gives them, or None.
    """
    if manifest.quantisation is None:
        return None
    found = compare_precisions(manifest.quantisation, timings, manifest.model.source)
    rows = found["rows"]
    return {
        "calibration": found["calibration"],
        "method": found["method"],
        "evaluation": found["evaluation"],
        "reference": _percent(found["evaluation"]["pytorch_top1"]),
        "max_drop": found["max_drop"],
        "rows": [_row(row) for row in rows],
        "bars": [
            _chart("Median latency", "ms", rows, "p50_ms", words.milliseconds),
            _chart("Size", "", rows, "bytes", words.size),
            _chart("Lost", found["evaluation"]["unit"], rows, "drop", _points),
        ],
        "kept": _kept(manifest),
        "layers": _layers(found["sensitivity"]),
        "remarks": found["remarks"],
        "machine": _machine(timings),
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    ok = row["status"] == "ok"
    return {
        "target": words.TARGET_NAMES.get(row["target"], row["target"]),
        "variant": row["variant"] + (f", {row['kept']} kept" if row["kept"] else ""),
        "ok": ok,
        "top1": _percent(row["top1"]),
        "agreement": _percent(row["agreement"]),
        "nmse": words.NONE if row["nmse"] is None else words.distance(row["nmse"]),
        "drop": words.NONE if row["drop"] is None else _points(row["drop"]),
        "latency": words.milliseconds(row["p50_ms"]),
        "speedup": _times(row["speedup"]),
        "size": words.size(row["bytes"]) if row["bytes"] else words.NONE,
        "ratio": _times(row["size_ratio"]),
        "memory": words.NONE if row["peak_rss_mb"] is None else f"{row['peak_rss_mb']:,.0f}",
        "remark": row["reason"] or (f"judged by {row['judged_by']}" if row["judged_by"] else ""),
    }


def _chart(
    title: str, unit: str, rows: Sequence[Mapping[str, Any]], key: str, write: Any
) -> dict[str, Any]:
    """Bars of one figure, a group a target."""
    known = [row for row in rows if row[key] is not None and row["status"] == "ok"]
    top = max((row[key] for row in known), default=0.0)
    return {
        "title": title,
        "unit": unit,
        "bars": [
            charts.Bar(
                label=row["variant"],
                group=words.TARGET_NAMES.get(row["target"], row["target"]),
                width=charts.bar_width(max(row[key], 0.0), top),
                value=write(row[key]),
                tone=_TONES.get(row["variant"], ""),
            )
            for row in known
        ],
    }


def _layers(ranked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    top = ranked[0]["nmse"] if ranked else 0.0
    return {
        "bars": [
            charts.Bar(
                label=layer["node"],
                group=layer["module"],
                width=charts.bar_width(layer["nmse"], top),
                value=words.distance(layer["nmse"]),
            )
            for layer in ranked[:_SHOWN]
        ],
        "more": max(0, len(ranked) - _SHOWN),
    }


def _kept(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "target": words.TARGET_NAMES.get(artifact.target, artifact.target),
            "layers": [f"{layer.node} ({layer.module})" for layer in artifact.quantisation.kept],
            "of": artifact.quantisation.layers,
        }
        for graph in manifest.graphs
        for artifact in graph.artifacts
        if artifact.quantisation and artifact.quantisation.kept
    ]


def _machine(timings: Mapping[str, Any] | None) -> str:
    host = timings.get("host") if timings else None
    if not isinstance(host, Mapping):
        return ""
    name = next((host[k] for k in ("name", "hostname", "cpu", "model") if host.get(k)), "")
    return words.plain(name)


def _percent(value: float | None) -> str:
    return words.NONE if value is None else f"{value:.2f} %"


def _points(value: float) -> str:
    return f"{value:.2f}"


def _times(value: float | None) -> str:
    return words.NONE if value is None else f"{value:.2f}\N{MULTIPLICATION SIGN}"
