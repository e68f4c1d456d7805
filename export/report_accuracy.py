"""The accuracy section of the report: what was told right, on which labelled pictures."""

from __future__ import annotations

from typing import Any

from edgekit.manifest import Accuracy, Manifest

from . import report_charts as charts
from . import report_words as words

_AXIS_TOP = 100.0  # percent


def accuracy(manifest: Manifest) -> dict[str, Any] | None:
    """The section's view; None where no accuracy was measured."""
    found = manifest.evaluation
    if found is None:
        return None
    measured = [
        (_name(graph.name, artifact.target, manifest), artifact.accuracy, artifact)
        for graph in manifest.graphs
        for artifact in graph.artifacts
        if artifact.accuracy is not None
    ]
    rows = [_row("PyTorch", "fp32, eager", found.pytorch, None)]
    rows += [
        _row(name, artifact.effective_precision or artifact.precision, figures, found.pytorch)
        for name, figures, artifact in measured
    ]
    return {
        "dataset": found.dataset,
        "samples": f"{found.pytorch.samples:,}",
        "sha256": found.sha256,
        "rows": rows,
        "ticks": charts.value_ticks(_AXIS_TOP),
    }


def _name(graph: str, target: str, manifest: Manifest) -> str:
    name = words.TARGET_NAMES.get(target, target)
    return f"{name} · {graph}" if len(manifest.graphs) > 1 else name


def _row(
    name: str, precision: str, figures: Accuracy, reference: Accuracy | None
) -> dict[str, Any]:
    different = figures.disagreements if reference else None
    return {
        "bar": charts.Bar(
            label=name,
            group="",
            width=charts.bar_width(figures.top1, _AXIS_TOP),
            value=f"{figures.top1:.2f} %",
        ),
        "precision": precision,
        "top5": f"{figures.top5:.2f} %",
        "points": _points(figures.top1 - reference.top1) if reference else words.NONE,
        "different": words.NONE if different is None else f"{different:,}",
        "samples": f"{figures.samples:,}",
    }


def _points(difference: float) -> str:
    """A difference of two percentages: ``+0.02``, ``-0.10``, ``0``."""
    return f"{difference:+.2f}" if abs(difference) >= 0.005 else "0"
