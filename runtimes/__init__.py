"""The on-device library: run a bundle on whatever runtime is here, without torch.

>>> from edgekit.runtimes import load
>>> with load("model.edgekit") as session:            # doctest: +SKIP
...     outputs = session.run({"image": image})
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgekit.bundle import Bundle, Files
from edgekit.cores import usable_cores
from edgekit.errors import EdgekitError, MissingBackendError, UsageError
from edgekit.manifest import Artifact, Graph

from . import registry
from .registry import Runtime
from .sessions.base import Session
from .streaming import StreamingSession

__all__ = [
    "RUNTIMES",
    "Session",
    "StreamingSession",
    "available",
    "load",
    "open_artifact",
    "stream",
]

RUNTIMES: Final = tuple(registry.RUNTIMES)
"""The names of all runtimes, in the order in which ``auto`` prefers them."""

AUTO: Final = "auto"


def load(
    bundle: str | Path | Bundle,
    runtime: str = AUTO,
    threads: int | None = None,
    graph: str | None = None,
) -> Session:
    """Load one graph of a bundle on a runtime.

    Args:
        bundle: a path, or an open bundle, which must then stay open.
        runtime: a name in :data:`RUNTIMES`; or ``auto``: what ``edgekit bench --save``
            found fastest for this bundle here; else the first that can work here, in the
            order of the device that the bundle was made for, or that of :data:`RUNTIMES`;
            of artifacts in the bundle's own precision only.
        threads: intra-operator threads; None: with ``auto`` as measured, else that device's
            number or as many cores as there are, if fewer; or the runtime's own default.
        graph: which graph; by default the only one, the task's own or the one called
            ``forward``. Where the runtime has no artifact of the task's own graph, one that
            the task names as its alternative is loaded.

    Returns:
        the session; it closes what was opened here when it is closed.

    Raises:
        UsageError: no such bundle, graph or runtime, or the bundle lacks that target.
        MissingBackendError: the runtime, or its hardware, is not here.
        BundleError: the bundle is damaged, or the runtime refuses the graph.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot run anything", "", "give 1 or more")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    try:
        graphs = _graphs(opened, graph)
        if runtime == AUTO:
            session = _load_best(opened, graphs, threads)
        else:
            chosen = registry.get(runtime)
            session = _load_named(opened, _having(graphs, chosen), chosen, threads)
    except BaseException:
        if opened is not bundle:
            opened.close()
        raise
    if opened is not bundle:
        session.own(opened)
    return session


def stream(
    bundle: str | Path | Bundle,
    runtime: str = AUTO,
    threads: int | None = None,
    graph: str | None = None,
) -> StreamingSession:
    """Load a graph that carries state; arguments and errors as in :func:`load`.

    Returns:
        a session that owns the state; it closes what was opened here when it is closed.

    Raises:
        UnsupportedError: the graph carries no state.
    """
    session = load(bundle, runtime, threads, graph)
    try:
        return StreamingSession(session)
    except BaseException:
        session.close()
        raise


def available(bundle: str | Path | Bundle, graph: str | None = None) -> list[str]:
    """The runtimes that a graph of ``bundle`` has an artifact for and that can work here.

    Nothing is loaded to find out, so a runtime listed here can still fail to load.
    """
    if not isinstance(bundle, Bundle):
        with Bundle.open(bundle) as opened:
            return available(opened, graph)
    artifacts = {target for one in _graphs(bundle, graph) for target in _usable(one)}
    return [
        runtime.name
        for runtime in registry.RUNTIMES.values()
        if runtime.target in artifacts and registry.missing(runtime) is None
    ]


def open_artifact(
    files: Files, graph: Graph, artifact: Artifact, threads: int | None = None, **options: object
) -> Session:
    """A session for one artifact, whatever its status: for whoever judges artifacts.

    Args:
        files: a bundle, or a :class:`~edgekit.bundle.BundleWriter` that is not finished yet.
        options: keyword arguments of that runtime's session class.

    Raises:
        MissingBackendError, BundleError: as in :func:`load`.
    """
    runtime = registry.for_target(artifact.target)
    if (lacking := registry.missing(runtime)) is not None:
        raise lacking
    if graph.states and runtime.name == "onnxruntime":
        # Frames come at a pace of their own: threads that spin until the next one take the
        # processor from the other graphs of the same stream.
        options.setdefault("spinning", False)
    session = registry.session_class(runtime)(files, graph, artifact, threads, **options)
    session.states = graph.states
    return session


def _usable(graph: Graph) -> dict[str, Artifact]:
    return {a.target: a for a in graph.artifacts if a.status == "ok"}


def _graphs(bundle: Bundle, name: str | None) -> list[Graph]:
    """The graph ``name``; unless one was named, also those that the task has in its place."""
    others = bundle.manifest.task.params.get("alternatives", ()) if name is None else ()
    return [bundle.graph(name), *(bundle.graph(other) for other in others)]


def _having(graphs: list[Graph], runtime: Runtime) -> Graph:
    """The first graph that there is something of for ``runtime``, else the first of all."""
    return next((graph for graph in graphs if runtime.target in _usable(graph)), graphs[0])


def _load_named(bundle: Bundle, graph: Graph, runtime: Runtime, threads: int | None) -> Session:
    usable = _usable(graph)
    if runtime.target in usable:
        return open_artifact(bundle, graph, usable[runtime.target], threads)
    rejected = {a.target: a.reason or a.status for a in graph.artifacts}.get(runtime.target)
    names = [r.name for r in registry.RUNTIMES.values() if r.target in usable]
    raise UsageError(
        f"the bundle {bundle.path} has nothing that {runtime.name} may run",
        f"its artifact was not accepted ({rejected})"
        if rejected
        else f"it runs on {', '.join(names) or 'nothing'}",
        f"edgekit export {bundle.manifest.model.source} --target {runtime.target}",
    )


def _load_best(bundle: Bundle, graphs: list[Graph], threads: int | None) -> Session:
    from edgekit.measurements import fastest

    measured = fastest(bundle.digest, threads)
    hint = bundle.manifest.device
    first = (*([measured[0]] if measured else ()), *(hint.runtimes if hint else ()), *RUNTIMES)
    order = [name for name in dict.fromkeys(first) if name in RUNTIMES]
    lacking: list[str] = []
    for name in order:
        graph = _having(graphs, registry.RUNTIMES[name])
        artifact = _usable(graph).get(registry.RUNTIMES[name].target)
        if artifact is None or artifact.precision != bundle.manifest.precision:
            continue
        best = min(hint.threads, usable_cores()) if hint and hint.threads else None
        if measured is not None and measured[0] == name:
            best = measured[1]
        try:
            return open_artifact(bundle, graph, artifact, threads or best)
        except MissingBackendError as e:
            lacking.append(f"{name} ({e.why or e.what})")
    raise _nothing_works(bundle, lacking)


def _nothing_works(bundle: Bundle, lacking: list[str]) -> EdgekitError:
    if lacking:
        return MissingBackendError(
            f"no runtime of the bundle {bundle.path} works here",
            "; ".join(lacking),
            "edgekit doctor says what to install",
        )
    return UsageError(
        f"the bundle {bundle.path} has no accepted artifact in {bundle.manifest.precision}",
        "",
        f"edgekit export {bundle.manifest.model.source}",
    )
