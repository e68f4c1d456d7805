"""A model at another picture size than its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekit.errors import UsageError

from .spec import GraphSpec, InputSpec, LoadedModel

PICTURE_RANK = 4


def at_resolution(model: LoadedModel, size: tuple[int, int]) -> LoadedModel:
    """The model with pictures of ``size`` (height, width) as its examples and in its task.

    A network with a method ``deploy_at(model, size)`` knows itself what its graphs become.

    Raises:
        UsageError: the network takes no pictures, or none of this size.
    """
    if (own := getattr(model.module, "deploy_at", None)) is not None:
        return own(model, size)
    before = _picture_size(model)

    def resized(spec: InputSpec) -> InputSpec:
        picture = len(spec.shape) == PICTURE_RANK and spec.shape[2:] == before
        return replace(spec, shape=(*spec.shape[:2], *size)) if picture else spec

    graphs = tuple(
        replace(graph, inputs=tuple(resized(spec) for spec in graph.inputs))
        for graph in model.graphs
    )
    task = model.task
    if "resolution" in task.params:
        params = {**task.params, "resolution": list(size)}
        if params.get("resize") is not None:
            params["resize"] = _scaled(params["resize"], before, size)
        task = task.model_copy(update={"params": params})
    return replace(model, graphs=graphs, task=task, macs=None)


def _scaled(
    resize: int | Sequence[int], before: Sequence[int], after: Sequence[int]
) -> int | list[int]:
    """``resize`` (the shorter side, or both) as much larger as the picture is."""
    if isinstance(resize, int):
        return round(resize * min(after) / min(before))
    return [round(side * new / old) for side, new, old in zip(resize, after, before, strict=True)]


def _picture_size(model: LoadedModel) -> tuple[int, ...]:
    graph: GraphSpec = model.graphs[0]
    for spec in graph.inputs:
        if len(spec.shape) == PICTURE_RANK:
            return spec.shape[2:]
    raise UsageError(f"{model.name} takes no pictures", "--resolution does not apply")
