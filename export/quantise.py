"""The way of a quantised model: calibrate, quantise within the budget, compare, bundle.

Beside the bundle that was asked for, the same network is exported in other precisions to a
temporary place, judged by the same samples and timed in the same run, so that what leaves
here says what it cost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from edgekit.bundle import BundleWriter
from edgekit.errors import EdgekitError, UnsupportedError, UsageError
from edgekit.manifest import (
    Artifact,
    Graph,
    LayerError,
    Manifest,
    PrecisionRow,
    QuantisationInfo,
    SamplesInfo,
)

from ..models.spec import LoadedModel
from ..quant.comparison import CHOSEN
from ..quant.options import QuantOptions
from ..quant.plan import Arrays, QuantPlan, Scheme
from ..quant.samples import Samples
from .budget import Attempt, Job, Quantised, quantise_graph
from .captured import Captured
from .evaluate import classifier_graph
from .layers import linear_share, weight_layers
from .options import ExportOptions
from .pipeline import (
    capture_all,
    describe_graph,
    export_graph,
    finish_bundle,
    lower_all,
    record_graph,
)
from .round_weights import find_corrections
from .sample_judge import SampleJudge
from .sample_sets import calibration_and_evaluation
from .sensitivity import rank_layers
from .targets import Target
from .targets.weight_only import LEAST_SHARE, refuse_dynamic

#: From this share of its weights in linear layers, int8 without calibration means weights.
LINEAR_HEAVY = 0.9
#: Of its layers, how many `mixed` keeps in floating point whatever the budget.
MIXED_SHARE = 0.1

Progress = Callable[[str], None]
Measure = Callable[[dict[str, Path]], None]


@dataclass
class _Table:
    """The rows of the comparison, and the bundles that they are of, by precision."""

    rows: list[PrecisionRow] = field(default_factory=list)
    bundles: dict[str, Path] = field(default_factory=dict)


def write_quantised_bundle(
    model: LoadedModel,
    targets: Sequence[Target],
    out: Path,
    options: ExportOptions,
    progress: Progress = lambda step: None,
    measure: Measure = lambda bundles: None,
) -> Manifest:
    """Export ``model`` quantised as ``options.quantisation`` says, and put the bundle at ``out``.

    A target that fails does not stop the others: its artifact says why. With ``static`` and
    ``dynamic``, a model's other graphs than the one its task is about stay in fp32.

    Args:
        measure: called at the end with the bundles by precision, ``out`` among them, as long
            as they all exist.

    Raises:
        UsageError: calibration samples are missing, or the inputs are wrong.
        InputError: samples cannot be used. UnsupportedError: there is nothing to quantise.
    """
    asked = options.quantisation
    floating = replace(options, precision="fp32", quantisation=None, allow_drift=True)
    with tempfile.TemporaryDirectory(prefix="edgekit-precisions-") as folder:
        spare = Path(folder)
        captured = capture_all(model, options, progress)
        index = classifier_graph(model.graphs)
        one = captured[index]
        scheme = _scheme(one, options.precision, asked)
        calibration, evaluation = calibration_and_evaluation(model, one, asked, scheme, progress)
        graph = describe_graph(one.program)
        answer = model.task.params.get("output")
        judge = SampleJudge(one, graph, model.task.kind, answer, evaluation)
        job = _job(one, graph, judge, scheme, calibration, options, progress)
        table = _Table()
        for precision in asked.compare:
            beside = replace(floating, precision=precision)
            _export_beside(model, captured, index, targets, beside, judge, table, spare, progress)
        with BundleWriter(out) as writer:
            found = {
                target.name: quantise_graph(writer, target, job, spare / "tries", progress)
                for target in targets
            }
            artifacts = [one.chosen.artifact for one in found.values()]
            graphs = [
                record_graph(writer, one.program, judge.stored, artifacts)
                if number == index
                else _other_graph(writer, other, targets, floating, scheme, progress)
                for number, other in enumerate(captured)
            ]
            _add_rows(table, found, options.precision, job)
            info = _info(options, asked, calibration, judge, job, table)
            manifest = finish_bundle(writer, model, captured, graphs, options, quantisation=info)
        progress("timing every precision")
        measure({**table.bundles, CHOSEN: out})
    return manifest


def _scheme(captured: Captured, precision: str, asked: QuantOptions) -> Scheme:
    """What was asked, or what suits: integer weights for 4 bits and for networks of linear
    layers without calibration, static int8 else."""
    share = linear_share(captured.program)
    if not weight_layers(captured.program):
        raise UnsupportedError(f"{captured.program.name} has no weights to quantise")
    scheme = asked.scheme
    if scheme is None and precision == "int4":
        scheme = "weights"
    if scheme is None:
        scheme = "weights" if asked.calibration is None and share >= LINEAR_HEAVY else "static"
    if precision == "int4" and scheme != "weights":
        raise UsageError("int4 is for weights alone", "", "leave --scheme out")
    if scheme == "static" and asked.calibration is None:
        raise UsageError(
            f"{precision} needs samples to find ranges with",
            f"{1 - share:.0%} of the network's weights are in convolutions"
            if share < 1 - LEAST_SHARE
            else "--scheme static was asked for",
            "give --calib FOLDER (or an .npz; `random` for a trial without meaning)",
        )
    refuse_dynamic(captured.program, QuantPlan(scheme=scheme))
    return scheme


def _job(
    captured: Captured,
    graph: Graph,
    judge: SampleJudge,
    scheme: Scheme,
    calibration: Samples | None,
    options: ExportOptions,
    progress: Progress,
) -> Job:
    asked = options.quantisation
    inputs = [calibration[i] for i in range(len(calibration))] if calibration else []
    plan = QuantPlan(
        scheme=scheme,
        bits=4 if options.precision == "int4" else 8,
        samples=inputs if scheme == "static" else (),
        method=asked.method,
        group_size=asked.group_size,
        weight_format=asked.weight_format,
    )
    shown = inputs or [judge.samples[i] for i in range(len(judge.samples))]
    layers = weight_layers(captured.program)

    ranking = _ranking(captured, plan, shown, progress)
    corrections = {}
    if scheme == "static":
        progress("rounding weights and correcting biases")
        corrections = find_corrections(captured.program, plan, inputs)
    mixed = options.precision == "mixed"
    return Job(
        captured=captured,
        graph=graph,
        plan=plan,
        judge=judge,
        ranking=ranking,
        corrections=corrections,
        start=max(1, round(MIXED_SHARE * len(layers))) if mixed else 0,
        layers=len(layers),
        options=options,
    )


def _ranking(
    captured: Captured, plan: QuantPlan, samples: Sequence[Arrays], progress: Progress
) -> Callable[[], tuple[LayerError, ...]]:
    """The layers by sensitivity, found when first asked for."""
    count = len(weight_layers(captured.program))

    @cache
    def ranking() -> tuple[LayerError, ...]:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            if done % 10 == 0 or done == count:
                progress(f"sensitivity: {done} of {count} layers")

        ranked = rank_layers(captured.program, plan, samples, advance)
        return tuple(
            LayerError(node=one.layer.node, module=one.layer.module, nmse=one.nmse)
            for one in ranked
        )

    return ranking


def _export_beside(
    model: LoadedModel,
    captured: Sequence[Captured],
    index: int,
    targets: Sequence[Target],
    options: ExportOptions,
    judge: SampleJudge,
    table: _Table,
    folder: Path,
    progress: Progress,
) -> None:
    """Another precision of the same network, to compare with: a bundle and its rows."""
    place = folder / options.precision
    with BundleWriter(place) as writer:
        graphs = lower_all(writer, model, captured, targets, options, progress)
        by_name = {target.name: target for target in targets}
        for artifact in graphs[index].artifacts:
            table.rows.append(
                _floating_row(
                    by_name[artifact.target], writer, graphs[index], artifact, judge, progress
                )
            )
        finish_bundle(writer, model, captured, graphs, options)
    table.bundles[options.precision] = place


def _floating_row(
    target: Target,
    writer: BundleWriter,
    graph: Graph,
    artifact: Artifact,
    judge: SampleJudge,
    progress: Progress,
) -> PrecisionRow:
    row = PrecisionRow(
        target=target.name,
        variant=artifact.precision,
        status=artifact.status,
        bytes=artifact.bytes,
        reason=artifact.reason,
    )
    if artifact.status != "ok":
        return row
    try:
        judged = judge.judge(target, writer, graph, artifact, progress)
    except EdgekitError as error:
        return row.model_copy(update={"status": "failed", "reason": str(error)})
    return row.model_copy(update={"fidelity": judged.fidelity, "judged_by": judged.by})


def _other_graph(
    writer: BundleWriter,
    captured: Captured,
    targets: Sequence[Target],
    options: ExportOptions,
    scheme: Scheme,
    progress: Progress,
) -> Graph:
    artifacts = []
    for target in targets:
        progress(f"{target.name}: {captured.program.name} in fp32")
        artifacts.append(export_graph(writer, target, captured, options))
    return record_graph(writer, captured.program, captured.reference, artifacts)


def _add_rows(table: _Table, found: dict[str, Quantised], precision: str, job: Job) -> None:
    for name, one in found.items():
        if one.plain is not None:
            table.rows.append(_row(name, job.plan.precision, one.plain))
        variant = "mixed" if one.chosen.kept else job.plan.precision
        table.rows.append(_row(name, variant, one.chosen))


def _row(target: str, variant: str, attempt: Attempt) -> PrecisionRow:
    artifact = attempt.artifact
    return PrecisionRow(
        target=target,
        variant=variant,
        status=artifact.status,
        bytes=artifact.bytes,
        kept=len(attempt.kept),
        fidelity=attempt.judged.fidelity,
        judged_by=attempt.judged.by,
        reason=artifact.reason,
    )


def _info(
    options: ExportOptions,
    asked: QuantOptions,
    calibration: Samples | None,
    judge: SampleJudge,
    job: Job,
    table: _Table,
) -> QuantisationInfo:
    ranked = job.ranking() if job.ranking.cache_info().currsize or _wanted(options) else ()
    return QuantisationInfo(
        precision=options.precision,
        method=asked.method if job.plan.scheme == "static" else None,
        calibration=_samples_info(calibration) if calibration else None,
        evaluation=_samples_info(judge.samples),
        labelled=judge.samples.classes is not None,
        reference=judge.reference,
        max_drop=asked.max_drop,
        sensitivity=ranked,
        rows=tuple(table.rows),
    )


def _wanted(options: ExportOptions) -> bool:
    """Whether the layers' sensitivity is part of the answer even where the budget held."""
    return options.precision == "mixed" or options.quantisation.sensitivity


def _samples_info(samples: Samples) -> SamplesInfo:
    return SamplesInfo(title=samples.title, samples=len(samples), sha256=samples.sha256)
