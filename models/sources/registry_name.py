"""A registry name, at another resolution if asked."""

from __future__ import annotations

from dataclasses import replace

from edgekit.errors import UsageError

from ..spec import GraphSpec, InputSpec, LoadedModel
from . import SourceOptions

PICTURE_RANK = 4


def load_registered(name: str, options: SourceOptions) -> LoadedModel:
    """The registry's model ``name``; errors as :func:`edgekit.models.load`."""
    from .. import load

    if options.inputs:
        raise UsageError(
            f"{name} states its own inputs", "--input is for models of your own", "--resolution HxW"
        )
    model = load(name, options.weights)
    return at_resolution(model, options.resolution) if options.resolution else model


def at_resolution(model: LoadedModel, size: tuple[int, int]) -> LoadedModel:
    """The model with pictures of ``size`` (height, width) as its examples and in its task."""
    before = _picture_size(model)

    def resized(spec: InputSpec) -> InputSpec:
        picture = len(spec.shape) == PICTURE_RANK and spec.shape[2:] == before
        return replace(spec, shape=(*spec.shape[:2], *size)) if picture else spec

    graphs = tuple(
        replace(graph, inputs=tuple(resized(spec) for spec in graph.inputs))
        for graph in model.graphs
    )
    task = model.task
    if "resize" in task.params:
        scale = min(size) / min(before)
        params = {
            **task.params,
            "resolution": list(size),
            "resize": round(task.params["resize"] * scale),
        }
        task = task.model_copy(update={"params": params})
    return replace(model, graphs=graphs, task=task, macs=None)


def _picture_size(model: LoadedModel) -> tuple[int, ...]:
    graph: GraphSpec = model.graphs[0]
    for spec in graph.inputs:
        if len(spec.shape) == PICTURE_RANK:
            return spec.shape[2:]
    raise UsageError(f"{model.name} takes no pictures", "--resolution does not apply")
