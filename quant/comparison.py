"""One network in several precisions side by side: the manifest's rows joined with timings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgekit.manifest import PrecisionRow, QuantisationInfo

from ..runtimes import registry
from .fidelity import drop_of, drop_unit

#: How the timings call the bundle that the comparison belongs to.
CHOSEN: Final = "chosen"
_NOISE = 1.02  # timings that differ by less are the same


def compare_precisions(
    info: QuantisationInfo, timings: Mapping[str, Any] | None, model: str
) -> dict[str, Any]:
    """The table as plain values.

    Args:
        info: of the bundle. timings: as :func:`edgekit.measurements.precisions_for` gives
            them; None where nothing was timed. model: what the user types to export it.

    Returns:
        ``evaluation``, ``rows`` (None for what is not known), ``recommended`` (runtime:
        precision, where two were timed) and ``remarks`` in words.
    """
    rows = [_row(info, row, timings) for row in info.rows]
    base = {row["target"]: row for row in rows if row["variant"] == "fp32"}
    for row in rows:
        beside = base.get(row["target"], {})
        row["size_ratio"] = _ratio(row["bytes"], beside.get("bytes"))
        row["speedup"] = _ratio(beside.get("p50_ms"), row["p50_ms"])
    recommended, remarks = _recommend(rows, model)
    return {
        "precision": info.precision,
        "evaluation": {
            **info.evaluation.model_dump(mode="json"),
            "labelled": info.labelled,
            "unit": drop_unit(info.reference),
            "pytorch_top1": info.reference.top1,
        },
        "calibration": info.calibration.model_dump(mode="json") if info.calibration else None,
        "method": info.method,
        "max_drop": info.max_drop,
        "rows": rows,
        "sensitivity": [layer.model_dump(mode="json") for layer in info.sensitivity],
        "recommended": recommended,
        "remarks": remarks,
    }


def _row(
    info: QuantisationInfo, row: PrecisionRow, timings: Mapping[str, Any] | None
) -> dict[str, Any]:
    found = row.fidelity
    runtime = registry.for_target(row.target).name
    timed = _timed(info, row, runtime, timings)
    return {
        "target": row.target,
        "runtime": runtime,
        "variant": row.variant,
        "status": row.status,
        "bytes": row.bytes,
        "kept": row.kept,
        "samples": found.samples if found else None,
        "top1": found.top1 if found else None,
        "agreement": found.agreement if found else None,
        "nmse": found.nmse if found else None,
        "drop": drop_of(found, info.reference) if found else None,
        "judged_by": row.judged_by,
        "p50_ms": timed["engine_ms"]["p50"] if timed else None,
        "peak_rss_mb": timed["peak_rss_mb"] if timed else None,
        "reason": row.reason,
    }


def _timed(
    info: QuantisationInfo,
    row: PrecisionRow,
    runtime: str,
    timings: Mapping[str, Any] | None,
) -> Mapping[str, Any] | None:
    if timings is None or row.status != "ok":
        return None
    last = [one for one in info.rows if one.target == row.target][-1]
    variant = CHOSEN if row is last and row.variant not in ("fp32", "fp16", "bf16") else row.variant
    for one in timings["rows"]:
        if one["variant"] == variant and one["runtime"] == runtime:
            return one
    return None


def _recommend(rows: list[dict[str, Any]], model: str) -> tuple[dict[str, str], list[str]]:
    """Per runtime the fastest of what is within its bounds; a remark where it is not ours."""
    recommended, remarks = {}, []
    for target in dict.fromkeys(row["target"] for row in rows):
        timed = [r for r in rows if r["target"] == target and r["p50_ms"] is not None]
        if len(timed) < 2:
            continue
        best, ours = min(timed, key=lambda r: r["p50_ms"]), timed[-1]
        recommended[best["runtime"]] = best["variant"]
        if best is not ours and ours["p50_ms"] > _NOISE * best["p50_ms"]:
            option = "" if best["variant"] == "fp32" else f" --precision {best['variant']}"
            remarks.append(
                f"{ours['variant']} is {ours['p50_ms'] / best['p50_ms']:.2f} times slower than "
                f"{best['variant']} on {ours['runtime']} here ({ours['p50_ms']:.2f} ms, "
                f"{best['p50_ms']:.2f} ms): ship that there: "
                f"edgekit export {model} --target {target}{option}"
            )
    return recommended, remarks


def _ratio(part: float | None, whole: float | None) -> float | None:
    return round(part / whole, 4) if part and whole else None
