"""One graph of a model, captured and rewritten, with what it must answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from edgekit.manifest import Graph

from ..models.spec import GraphSpec, LoadedModel
from .capture import DynamicAxes, FlatGraph, capture
from .options import Dynamic, ExportOptions, resolve_axes
from .passes import run_pipeline
from .program import Program
from .real_samples import real_samples
from .reference import Reference, compute
from .samples import Sample, seeded_samples
from .walk import compute_walk, frames, unrolled


@dataclass(frozen=True)
class Captured:
    """One graph, ready for every target, with what it must answer."""

    spec: GraphSpec
    program: Program
    reference: Reference
    module: nn.Module


def capture_graph(model: LoadedModel, spec: GraphSpec, options: ExportOptions) -> Captured:
    """Capture a graph, run the passes, and compute its reference eagerly.

    Raises:
        UsageError, UnsupportedError: as in :func:`.capture.capture`.
    """
    asked = _asked(model, spec, options)
    axes = _moved(spec.dynamic, resolve_axes(asked, spec.inputs)) if asked else spec.dynamic
    captured = capture(model, spec, axes)
    network = FlatGraph(model.module, spec)
    if spec.states:
        graph = described(captured)
        walk = list(frames(model.task, spec, graph, options.samples))
        reference = compute_walk(network, graph, walk)
        return Captured(spec, run_pipeline(captured), reference, model.module)
    samples = [
        *seeded_samples(model.task, spec.inputs, axes),
        *real_samples(
            model.task, captured.inputs, captured.outputs, options.samples, captured.dynamic
        ),
    ]
    renamed = [_by_graph_name(sample, captured) for sample in samples]
    reference = compute(network, captured.outputs, renamed)
    return Captured(spec, run_pipeline(captured), reference, model.module)


def described(program: Program) -> Graph:
    """A graph's contract, as the manifest has it."""
    return Graph(
        name=program.name,
        inputs=program.inputs,
        outputs=program.outputs,
        dynamic=dict(program.dynamic),
        states=program.states,
        picked=program.picked,
    )


def as_single_calls(captured: Captured) -> Captured:
    """A streaming graph as one without state, each of its frames a sample of its own.

    For what looks at one call at a time; other graphs are given back as they are.
    """
    if not captured.spec.states:
        return captured
    found = unrolled(
        captured.module, captured.spec, described(captured.program), captured.reference
    )
    return replace(
        captured,
        spec=replace(captured.spec, states=()),
        program=replace(captured.program, states=()),
        reference=found,
    )


def _asked(model: LoadedModel, spec: GraphSpec, options: ExportOptions) -> Dynamic:
    """The dynamic axes that were asked for, less those of the model's other graphs."""
    mine = {one.name for one in spec.inputs}
    others = {one.name for graph in model.graphs for one in graph.inputs} - mine
    return {name: axes for name, axes in options.dynamic.items() if name not in others}


def _moved(own: DynamicAxes, asked: DynamicAxes) -> DynamicAxes:
    """What was asked, and the graph's own axes of one range with the one of them that was asked.

    Where a graph has several inputs for each of N things, N is asked for once.
    """
    moved = {
        own[name][axis]: limits
        for name, axes in asked.items()
        for axis, limits in axes.items()
        if axis in own.get(name, {})
    }
    follow = {
        name: {axis: moved[limits] for axis, limits in axes.items() if limits in moved}
        for name, axes in own.items()
    }
    names = dict.fromkeys((*follow, *asked))
    return {name: {**follow.get(name, {}), **asked.get(name, {})} for name in names}


def _by_graph_name(sample: Sample, program: Program) -> Sample:
    # Names that are no identifiers were changed on capture; the order is the same.
    names = [spec.name for spec in program.inputs]
    return Sample(sample.origin, dict(zip(names, sample.inputs.values(), strict=True)))
