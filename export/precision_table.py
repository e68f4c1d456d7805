"""The comparison of a quantised network: the same graph in every precision, on every target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgekit.bundle import BundleWriter
from edgekit.errors import EdgekitError
from edgekit.manifest import Artifact, Graph, PrecisionRow

from ..models.spec import LoadedModel
from .budget import Attempt, Quantised
from .captured import Captured
from .options import ExportOptions
from .pipeline import finish_bundle, lower_all
from .sample_judge import SampleJudge
from .targets import Target

Progress = Callable[[str], None]


class PrecisionTable:
    """The rows of the comparison, and the bundles that they are of.

    A target that got the graph's alternative is compared by that.

    Attributes:
        rows: as they come. bundles: of the floating point precisions, by precision.
    """

    def __init__(
        self,
        model: LoadedModel,
        captured: Sequence[Captured],
        index: int,
        judges: Mapping[str, SampleJudge],
    ) -> None:
        self._model, self._captured, self._judges = model, captured, judges
        self._index = index
        self.rows: list[PrecisionRow] = []
        self.bundles: dict[str, Path] = {}

    def add_floating(
        self,
        precision: str,
        targets: Sequence[Target],
        options: ExportOptions,
        folder: Path,
        progress: Progress,
    ) -> None:
        """Export a precision to compare with into ``folder``: a bundle and its rows."""
        place = folder / precision
        beside = replace(options, precision=precision, quantisation=None, allow_drift=True)
        with BundleWriter(place) as writer:
            graphs = lower_all(writer, self._model, self._captured, targets, beside, progress)
            by_name = {target.name: target for target in targets}
            for graph, artifact in self._compared(graphs):
                target, judge = by_name[artifact.target], self._judges.get(graph.name)
                self.rows.append(_floating(target, writer, graph, artifact, judge, progress))
            finish_bundle(writer, self._model, self._captured, graphs, beside)
        self.bundles[precision] = place

    def add_quantised(
        self, graphs: Sequence[Graph], found: Mapping[str, Mapping[str, Quantised]]
    ) -> None:
        """The rows of the bundle itself.

        Args:
            graphs: what it holds. found: by graph and target, what became of quantising.
        """
        for graph, artifact in self._compared(graphs):
            if (one := found.get(graph.name, {}).get(artifact.target)) is None:
                continue
            if one.plain is not None:
                self.rows.append(_attempted(one.plain.artifact.precision, one.plain))
            variant = "mixed" if one.chosen.kept else one.chosen.artifact.precision
            self.rows.append(_attempted(variant, one.chosen))

    def _compared(self, graphs: Sequence[Graph]) -> list[tuple[Graph, Artifact]]:
        """The graph's artifacts, and those of its alternative where it was refused itself."""
        own, other = graphs[self._index], self._captured[self._index].spec.alternative
        have = {artifact.target for artifact in own.artifacts}
        return [(own, artifact) for artifact in own.artifacts] + [
            (graph, artifact)
            for graph in graphs
            if graph.name == other
            for artifact in graph.artifacts
            if artifact.target not in have
        ]


def _floating(
    target: Target,
    writer: BundleWriter,
    graph: Graph,
    artifact: Artifact,
    judge: SampleJudge | None,
    progress: Progress,
) -> PrecisionRow:
    row = PrecisionRow(
        target=target.name,
        variant=artifact.precision,
        status=artifact.status,
        bytes=artifact.bytes,
        reason=artifact.reason,
    )
    if artifact.status != "ok" or judge is None:
        return row
    try:
        judged = judge.judge(target, writer, graph, artifact, progress)
    except EdgekitError as error:
        return row.model_copy(update={"status": "failed", "reason": str(error)})
    return row.model_copy(update={"fidelity": judged.fidelity, "judged_by": judged.by})


def _attempted(variant: str, attempt: Attempt) -> PrecisionRow:
    artifact = attempt.artifact
    return PrecisionRow(
        target=artifact.target,
        variant=variant,
        status=artifact.status,
        bytes=artifact.bytes,
        kept=len(attempt.kept),
        fidelity=attempt.judged.fidelity,
        judged_by=attempt.judged.by,
        reason=artifact.reason,
    )
