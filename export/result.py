"""What an export did: the document that ``edgekit export --json`` prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.errors import (
    AccuracyError,
    EdgekitError,
    MissingBackendError,
    ParityError,
    UnsupportedError,
)
from edgekit.manifest import Artifact, Graph, Manifest
from edgekit.measurements import precisions_for

from ..quant.comparison import compare_precisions
from ..quant.evaluation import Evaluation

# Where targets fail in different ways the command exits with the gravest: a wrong answer
# before a refusal, a refusal before something that is not installed.
_GRAVITY = (5, 6, 1, 4, 7, 8, 9, 3)
_ERRORS: dict[int, type[EdgekitError]] = {
    3: MissingBackendError,
    4: UnsupportedError,
    5: ParityError,
    6: AccuracyError,
}


@dataclass(frozen=True)
class GraphResult:
    """One graph on one target. ``file`` is None where nothing was produced."""

    name: str
    file: str | None
    bytes: int
    effective_precision: str | None
    verify: dict[str, Any] | None
    quantisation: dict[str, Any] | None = None


@dataclass(frozen=True)
class TargetResult:
    """One target: ``status`` is ok, failed or unavailable; ``reason`` says why not ok."""

    target: str
    status: str
    reason: str | None
    exit_code: int
    graphs: tuple[GraphResult, ...]


@dataclass(frozen=True)
class ExportResult:
    """All targets of one export.

    Attributes:
        bundle: the bundle that was written. model: its name. precision: as asked.
        targets: in the order asked. device: what it was made for, as the manifest has it.
        evaluation: accuracy and latency on labelled pictures, if that was asked for.
        comparison: of the precisions, if it is quantised (see :mod:`edgekit.quant.comparison`).
    """

    bundle: Path
    model: str
    precision: str
    weights: str
    targets: tuple[TargetResult, ...]
    device: dict[str, Any] | None = None
    evaluation: dict[str, Any] | None = None
    comparison: dict[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        """0 if every target is ok, else the gravest failure's code."""
        codes = {target.exit_code for target in self.targets}
        return next((code for code in _GRAVITY if code in codes), 0)

    @property
    def ok(self) -> bool:
        """Whether every target is ok."""
        return self.exit_code == 0

    def raise_for_status(self) -> None:
        """Raise the error of the gravest failure, if there is one."""
        if self.ok:
            return
        failed = [t for t in self.targets if t.exit_code]
        worst = next(t for t in failed if t.exit_code == self.exit_code)
        kind = _ERRORS.get(self.exit_code, EdgekitError)
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise kind(f"{worst.target}{others} {worst.status}", worst.reason or "")

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {**asdict(self), "bundle": str(self.bundle)}


def describe_export(
    bundle: Path, manifest: Manifest, evaluation: Evaluation | None = None
) -> ExportResult:
    """The result as the manifest records it, with the evaluation's timings."""
    order = dict.fromkeys(a.target for graph in manifest.graphs for a in graph.artifacts)
    return ExportResult(
        bundle=bundle,
        model=manifest.model.name,
        precision=manifest.precision,
        weights=manifest.model.weights,
        targets=tuple(_target(bundle, name, manifest.graphs) for name in order),
        device=manifest.device.model_dump(mode="json") if manifest.device else None,
        evaluation=evaluation.to_json() if evaluation else None,
        comparison=_comparison(bundle, manifest),
    )


def _comparison(bundle: Path, manifest: Manifest) -> dict[str, Any] | None:
    if manifest.quantisation is None:
        return None
    with Bundle.open(bundle) as opened:
        timings = precisions_for(opened.digest)
    return compare_precisions(manifest.quantisation, timings, manifest.model.source)


def _target(bundle: Path, name: str, graphs: Iterable[Graph]) -> TargetResult:
    pairs = [
        (graph, artifact)
        for graph in graphs
        for artifact in graph.artifacts
        if artifact.target == name
    ]
    bad = [artifact for _, artifact in pairs if artifact.status != "ok"]
    return TargetResult(
        target=name,
        status=bad[0].status if bad else "ok",
        reason=bad[0].reason if bad else None,
        exit_code=bad[0].exit_code if bad else 0,
        graphs=tuple(
            _graph(bundle, graph.name, artifact) for graph, artifact in pairs if artifact.file
        ),
    )


def _graph(bundle: Path, name: str, artifact: Artifact) -> GraphResult:
    file = artifact.file
    if file is not None and bundle.is_dir():
        file = str(bundle.resolve() / file)
    return GraphResult(
        name=name,
        file=file,
        bytes=artifact.bytes,
        effective_precision=artifact.effective_precision,
        verify=artifact.verify.model_dump(mode="json") if artifact.verify else None,
        quantisation=artifact.quantisation.model_dump(mode="json")
        if artifact.quantisation
        else None,
    )
