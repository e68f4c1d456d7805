"""The way of a quantised model: calibrate, quantise within the budget, compare, bundle.

Beside the bundle that was asked for, the same network is exported in other precisions to a
temporary place, judged by the same samples and timed in the same run, so that what leaves
here says what it cost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from edgekit.bundle import BundleWriter
from edgekit.errors import InputError, UnsupportedError, UsageError
from edgekit.manifest import Graph, LayerError, Manifest, QuantisationInfo, SamplesInfo

from ..models.spec import LoadedModel
from ..quant.comparison import CHOSEN
from ..quant.options import QuantOptions
from ..quant.plan import Arrays, QuantPlan, Scheme
from ..quant.samples import Samples
from .alternatives import settle
from .budget import Job, Quantised, quantise_graph
from .captured import Captured, as_single_calls
from .evaluate import task_graph
from .layers import linear_share, weight_layers
from .options import ExportOptions
from .pipeline import (
    capture_all,
    describe_graph,
    export_graph,
    finish_bundle,
    record_graph,
)
from .precision_table import PrecisionTable
from .program import module_path
from .round_weights import find_corrections
from .sample_judge import SampleJudge
from .sample_sets import calibration_and_evaluation, carries_state, own_samples
from .sensitivity import rank_layers
from .targets import Target
from .targets.weight_only import LEAST_SHARE, refuse_dynamic

#: From this share of its weights in linear layers, int8 without calibration means weights.
LINEAR_HEAVY = 0.9
#: Of its layers, how many `mixed` keeps in floating point whatever the budget.
MIXED_SHARE = 0.1

Progress = Callable[[str], None]
Measure = Callable[[dict[str, Path]], None]


def write_quantised_bundle(
    model: LoadedModel,
    targets: Sequence[Target],
    out: Path,
    options: ExportOptions,
    progress: Progress = lambda step: None,
    measure: Measure = lambda bundles: None,
) -> Manifest:
    """Export ``model`` quantised as ``options.quantisation`` says, and put the bundle at ``out``.

    A target that fails does not stop the others: its artifact says why. What is compared is
    the graph that the model's task is about. Of the other graphs those that stand in for it are
    quantised as it is; with ``weights``, all are; the rest stays in fp32.

    Args:
        measure: called at the end with the bundles by precision, ``out`` among them, as long
            as they all exist.

    Raises:
        UsageError: calibration samples are missing, or the inputs are wrong.
        InputError: samples cannot be used. UnsupportedError: there is nothing to quantise.
    """
    asked = options.quantisation
    with tempfile.TemporaryDirectory(prefix="edgekit-precisions-") as folder:
        spare = Path(folder)
        captured = capture_all(model, options, progress)
        index = _compared(model, captured)
        jobs = _jobs(model, captured, index, options, progress)
        judges = {job.graph.name: job.judge for job in jobs.values()}
        table = PrecisionTable(model, captured, index, judges)
        for precision in asked.compare:
            table.add_floating(precision, targets, options, spare, progress)
        with BundleWriter(out) as writer:
            found = {
                number: {
                    target.name: quantise_graph(writer, target, job, spare / "tries", progress)
                    for target in targets
                }
                for number, job in jobs.items()
            }
            graphs = [
                _recorded(writer, one, jobs[number], found[number])
                if number in jobs
                else _in_fp32(writer, one, targets, options, progress)
                for number, one in enumerate(captured)
            ]
            graphs = settle(model.graphs, graphs, writer.root, progress)
            table.add_quantised(graphs, {jobs[n].graph.name: one for n, one in found.items()})
            info = _info(options, jobs[index], table)
            manifest = finish_bundle(writer, model, captured, graphs, options, quantisation=info)
        progress("timing every precision")
        measure({**table.bundles, CHOSEN: out})
    return manifest


def _compared(model: LoadedModel, captured: Sequence[Captured]) -> int:
    """Which graph precisions are compared by: the one that files go into, if it is quantised."""
    wanted = task_graph(model.graphs, model.task)
    order = (wanted, *(number for number in range(len(captured)) if number != wanted))
    return next((number for number in order if _quantisable(captured[number])), wanted)


def _quantisable(captured: Captured) -> bool:
    """Whether a graph has layers, and the network does not want all of them in floating point."""
    if captured.spec.exact:
        return False
    fixed = _fixed(captured)
    return any(layer.node not in fixed for layer in weight_layers(captured.program))


def _recorded(
    writer: BundleWriter, captured: Captured, job: Job, found: Mapping[str, Quantised]
) -> Graph:
    """A graph as quantised, with what the bundle keeps to verify it with: of a streaming graph
    the walk, not its single calls."""
    stored = captured.reference if captured.spec.states else job.judge.stored
    artifacts = [one.chosen.artifact for one in found.values()]
    return record_graph(writer, captured.program, stored, artifacts)


def _in_fp32(
    writer: BundleWriter,
    captured: Captured,
    targets: Sequence[Target],
    options: ExportOptions,
    progress: Progress,
) -> Graph:
    floating = replace(options, precision="fp32", quantisation=None)
    artifacts = []
    for target in targets:
        progress(f"{target.name}: {captured.program.name} in fp32")
        artifacts.append(export_graph(writer, target, captured, floating))
    return record_graph(writer, captured.program, captured.reference, artifacts)


def _jobs(
    model: LoadedModel,
    captured: Sequence[Captured],
    index: int,
    options: ExportOptions,
    progress: Progress,
) -> dict[int, Job]:
    """What is quantised, by the graph's number: the task's own graph, and those beside it."""
    captured = [as_single_calls(one) for one in captured]
    one, asked = captured[index], options.quantisation
    scheme = _scheme(one, options.precision, asked)
    streams = (carries_state(model, one) or one.spec.answer) and scheme == "weights"
    if streams and asked.calibration is None and asked.evaluation is None:
        sets = None, own_samples(one)  # all that it is verified with: none is held back
    else:
        sets = calibration_and_evaluation(model, one, asked, scheme, progress)
    jobs = {index: _job(model, one, scheme, sets, options, progress)}
    for number, other in enumerate(captured):
        if number in jobs or not _quantisable(other):
            continue
        if one.spec.name == other.spec.alternative or other.spec.name == one.spec.alternative:
            try:
                sets = calibration_and_evaluation(model, other, asked, scheme, progress)
            except InputError as error:
                progress(f"{other.spec.name} stays in fp32: {error}")
                continue
        elif scheme == "weights":
            sets = None, own_samples(other)
        else:
            continue
        jobs[number] = _job(model, other, scheme, sets, options, progress)
    return jobs


def _scheme(captured: Captured, precision: str, asked: QuantOptions) -> Scheme:
    """What was asked, or what suits: what the network says of int8 (``integer_scheme``), integer
    weights for 4 bits and for networks of linear layers without calibration, static int8 else."""
    share = linear_share(captured.program)
    if not weight_layers(captured.program):
        raise UnsupportedError(f"{captured.program.name} has no weights to quantise")
    scheme = asked.scheme
    if scheme is None and precision == "int8":
        scheme = getattr(captured.module, "integer_scheme", None)
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
    model: LoadedModel,
    captured: Captured,
    scheme: Scheme,
    sets: tuple[Samples | None, Samples],
    options: ExportOptions,
    progress: Progress,
) -> Job:
    asked, (calibration, evaluation) = options.quantisation, sets
    graph = describe_graph(captured.program)
    answer = model.task.params.get("output")
    judge = SampleJudge(captured, graph, model.task.kind, answer, evaluation)
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
    fixed = _fixed(captured)
    layers = [one for one in weight_layers(captured.program) if one.node not in fixed]
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
        calibration=calibration,
        ranking=_ranking(captured, plan, shown, fixed, progress),
        corrections=corrections,
        fixed=fixed,
        start=max(1, round(MIXED_SHARE * len(layers))) if mixed else 0,
        layers=len(layers),
        options=options,
    )


def _fixed(captured: Captured) -> tuple[str, ...]:
    """Nodes of modules that the network itself wants in floating point, whatever the rest is in.

    A front end's transform, for one: what it gives spans more decades than 8 bits have.
    """
    wanted = tuple(f"{name}." for name in getattr(captured.module, "floating_modules", ()))
    nodes = captured.program.exported.graph.nodes
    return tuple(
        node.name
        for node in nodes
        if node.op == "call_function" and f"{module_path(node)}.".startswith(wanted)
    )


def _ranking(
    captured: Captured,
    plan: QuantPlan,
    samples: Sequence[Arrays],
    fixed: Sequence[str],
    progress: Progress,
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
            if one.layer.node not in fixed
        )

    return ranking


def _info(options: ExportOptions, job: Job, table: PrecisionTable) -> QuantisationInfo:
    asked, judge = options.quantisation, job.judge
    ranked = job.ranking() if job.ranking.cache_info().currsize or _wanted(options) else ()
    return QuantisationInfo(
        precision=options.precision,
        method=asked.method if job.plan.scheme == "static" else None,
        calibration=_samples_info(job.calibration) if job.calibration else None,
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
