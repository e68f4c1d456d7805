"""What was measured over time: one line a model, machine, runtime and number of threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Tools whose version belongs to a runtime's figures, by the runtime's name.
_TOOLS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "executorch": "executorch",
    "tensorrt": "tensorrt",
    "coreml": "coremltools",
}


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        at: when, ISO 8601 in UTC. digest: of the bundle. p50_ms, p90_ms: of the latency from
            input to answer. peak_rss_mb: of its process.
        versions: of edgekit and of the runtime, as far as they were recorded.
        changed: what is another since the point before, in words; empty for the first.
        ratio: p50 over that of the point before; None for the first.
    """

    at: str
    digest: str
    p50_ms: float
    p90_ms: float | None
    peak_rss_mb: float | None
    versions: dict[str, str]
    changed: tuple[str, ...] = ()
    ratio: float | None = None


@dataclass(frozen=True)
class Series:
    """The points of one line, oldest first. ``model`` is a digest where no name is known."""

    model: str
    machine: str
    runtime: str
    threads: int | None
    precision: str
    points: tuple[Point, ...]

    @property
    def label(self) -> str:
        """The runtime, its threads and its precision, in words."""
        many = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"{self.runtime}, {many if self.threads else 'its threads'}, {self.precision}"


def series(rows: Iterable[Mapping[str, Any]], wanted: str | None = None) -> list[Series]:
    """The lines in rows of :func:`edgekit.measurements.history`.

    Args:
        wanted: of this model or digest alone; None: of all.

    Returns:
        the lines by model, machine and runtime.
    """
    grouped: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        model = row["model"] or row["digest"][:12]
        if wanted is not None and wanted not in (model, row["digest"]):
            continue
        key = (
            model,
            row["host_fingerprint"],
            row["runtime"],
            row["threads"] or 0,
            row.get("precision") or "",
        )
        grouped.setdefault(key, []).append(row)
    return [_series(key, grouped[key]) for key in sorted(grouped)]


def _series(key: tuple, rows: list[Mapping[str, Any]]) -> Series:
    model, _, runtime, threads, precision = key
    points: list[Point] = []
    for row in rows:
        points.append(_point(row, runtime, points[-1] if points else None))
    host = rows[-1]["host"]
    machine = host.get("name") or host.get("cpu") or "a machine that was not recorded"
    return Series(model, machine, runtime, threads or None, precision, tuple(points))


def _point(row: Mapping[str, Any], runtime: str, before: Point | None) -> Point:
    tools = row["host"].get("tools", {})
    names = ("edgekit", _TOOLS.get(runtime, runtime))
    versions = {name: str(tools[name]) for name in names if name in tools}
    p50 = float(row["latency_ms"]["p50"])
    changed: list[str] = []
    if before is not None:
        if before.digest != row["digest"]:
            changed.append(f"bundle {before.digest[:8]} → {row['digest'][:8]}")
        for name, version in versions.items():
            if (earlier := before.versions.get(name)) not in (None, version):
                changed.append(f"{name} {earlier} → {version}")
    return Point(
        at=row["measured_at"],
        digest=row["digest"],
        p50_ms=p50,
        p90_ms=row["latency_ms"].get("p90"),
        peak_rss_mb=row.get("peak_rss_mb"),
        versions=versions,
        changed=tuple(changed),
        ratio=round(p50 / before.p50_ms, 4) if before and before.p50_ms else None,
    )
