"""A graph that a target refuses, and another of the same model that does its work there.

A detector from points to boxes can be one graph, or begin behind the partition. The first is
tried on every target; one that refuses an operator gets the second, and the manifest says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit.errors import UnsupportedError
from edgekit.manifest import Artifact, Graph

from ..models.spec import GraphSpec


def settle(
    specs: Sequence[GraphSpec],
    graphs: Sequence[Graph],
    root: Path,
    say: Callable[[str], None] = lambda text: None,
) -> list[Graph]:
    """The graphs without what a target refused but has an alternative for.

    Args:
        specs: what the model deploys. graphs: what became of it, in the same order.
        root: the bundle's folder, from which what a refusal left behind is removed.
        say: told which targets got the alternative, and why.

    Returns:
        the graphs. An artifact that stands in has, in ``details``, ``instead_of``: the graph
        that was refused, and ``because``: the refusal.
    """
    found = {graph.name: graph for graph in graphs}
    for spec in specs:
        if spec.alternative is None:
            continue
        for refused in found[spec.name].artifacts:
            other = found[spec.alternative]
            stand_in = _artifact(other, refused.target)
            if refused.exit_code != UnsupportedError.exit_code or stand_in is None:
                continue
            reason = refused.reason or "it is not supported"
            details = {**stand_in.details, "instead_of": spec.name, "because": reason}
            found[spec.alternative] = _with(
                other, stand_in, stand_in.model_copy(update={"details": details})
            )
            found[spec.name] = _with(found[spec.name], refused, None)
            shutil.rmtree(root / f"graphs/{spec.name}/{refused.target}", ignore_errors=True)
            say(f"{refused.target}: deployed {spec.alternative}, not {spec.name} ({reason})")
    return [found[graph.name] for graph in graphs]


def _artifact(graph: Graph, target: str) -> Artifact | None:
    for artifact in graph.artifacts:
        if artifact.target == target and artifact.status == "ok":
            return artifact
    return None


def _with(graph: Graph, old: Artifact, new: Artifact | None) -> Graph:
    artifacts = [new if artifact is old else artifact for artifact in graph.artifacts]
    kept = tuple(artifact for artifact in artifacts if artifact is not None)
    return graph.model_copy(update={"artifacts": kept})
