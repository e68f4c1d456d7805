"""The verifier: it, not the exporter, says whether an artifact is still the same model.

Needs no torch: references come from the exporter or from the bundle.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import (
    EdgekitError,
    InputError,
    MissingBackendError,
    ParityError,
    UnsupportedError,
)
from edgekit.manifest import Artifact, Graph, Level, Metrics, PickedRows, Verification
from edgekit.metrics import compare, worst

from ..quant.precision import failures, thresholds
from ..runtimes import registry
from ..runtimes.sessions.base import Session
from .match_rows import matched
from .reference import Reference
from .walk import Walk, runner

REJECTED = ".rejected"

# Of outputs whose rows are of something else than the reference's.
_ASTRAY = Metrics(max_abs=np.inf, rel_range=np.inf, nmse=np.inf, cosine=0.0)

# What runs an artifact where its runtime is not: see Target.interpret.
Interpret = Callable[[Files, Graph, Artifact], Session | None]


def verify_artifact(
    files: Files,
    graph: Graph,
    artifact: Artifact,
    reference: Reference,
    *,
    level: Level = "converted",
    runtime: str | None = None,
    interpret: Interpret | None = None,
    tolerance: Mapping[str, float] | None = None,
    notes: tuple[str, ...] = (),
    unrun: tuple[str, ...] = (),
) -> tuple[Verification, str | None]:
    """Run an artifact on its runtime and hold its outputs against the reference.

    Where its runtime is not here the target's interpreter stands in, if it has one that
    knows all of the artifact's operators.

    Args:
        level: how it is verified where neither is here (``compiled``, ``converted``).
        runtime: which runtime; by default the one for the artifact's target.
        interpret: the target's own way to run it without the runtime.
        tolerance: bounds that replace some of the precision's own.
        notes: what the target says of the artifact. unrun: and if nothing is run.

    Returns:
        the verification, and the effective precision if the artifact was run.

    Raises:
        BundleError, UnsupportedError: the runtime does not load the artifact.
        ParityError: an interpreted program contradicts itself.
    """
    bounds = thresholds(artifact.precision, tolerance)

    def not_run(why: str) -> tuple[Verification, None]:
        said = (*notes, *unrun, f"not run here: {why}")
        return Verification(level=level, passed=True, thresholds=bounds, notes=said), None

    try:
        opened = open_to_judge(files, graph, artifact, runtime, interpret)
    except MissingBackendError as error:
        return not_run(error.why or error.what)
    with opened.session as session:
        try:
            metrics, remarks = judge(session, reference, graph.picked)
        except UnsupportedError as error:
            if not opened.absent:
                raise
            return not_run(f"{opened.absent}; nor interpreted: {error.what}")
        precision = session.effective_precision
    broken = failures(metrics, bounds)
    check = Verification(
        level="interpreted" if opened.absent else "ran",
        passed=not broken,
        metrics=metrics,
        thresholds=bounds,
        samples=reference.origins,
        notes=(*opened.notes, *notes, *remarks, *broken),
    )
    return check, precision


@dataclass(frozen=True)
class Opened:
    """A session to judge by. ``absent`` says why its runtime is not here, if it stands in."""

    session: Session
    absent: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the verification should know."""
        if not self.absent:
            return ()
        return (f"not run here ({self.absent}): a reference interpreter computed it",)


def open_to_judge(
    files: Files,
    graph: Graph,
    artifact: Artifact,
    runtime: str | None = None,
    interpret: Interpret | None = None,
) -> Opened:
    """The artifact on its runtime, or on its target's interpreter where that is not here.

    Raises:
        MissingBackendError: neither can run it here; its ``why`` covers both.
    """
    try:
        return Opened(open_session(files, graph, artifact, runtime))
    except MissingBackendError as error:
        absent = error
    why = absent.why or absent.what
    try:
        session = interpret(files, graph, artifact) if interpret else None
    except (MissingBackendError, UnsupportedError) as error:
        raise MissingBackendError(
            absent.what, f"{why}; nor interpreted: {error.what}", absent.next_step
        ) from error
    if session is None:
        raise absent
    session.states = graph.states
    return Opened(session, why)


def open_session(
    files: Files, graph: Graph, artifact: Artifact, runtime: str | None = None
) -> Session:
    """The session for an artifact, rejected ones included."""
    chosen = registry.get(runtime) if runtime else registry.for_target(artifact.target)
    if (lacking := registry.missing(chosen)) is not None:
        raise lacking
    session = registry.session_class(chosen)(files, graph, artifact)
    session.states = graph.states
    return session


def judge(
    session: Session, reference: Reference, picked: PickedRows | None = None
) -> tuple[Metrics, tuple[str, ...]]:
    """The worst metrics over all samples and outputs, and what a reader should know of them.

    Args:
        picked: which rows the outputs are of, where the network picks them (see match_rows).
    """
    found, notes = [], []
    run = runner(session, reference)
    for sample, expected in zip(reference.samples, reference.outputs, strict=True):
        outputs = run_sample(run, sample.inputs)
        if picked is not None:
            rows = matched(outputs, expected, picked)
            outputs, expected = rows.actual, rows.wanted
            if rows.unexplained:
                found.append(_ASTRAY)
                notes.append(f"{rows.unexplained} rows were picked that are no ties")
            elif rows.share < 1:
                notes.append(f"{100 * rows.share:.1f} % of the rows were picked by both")
        for name, wanted in expected.items():
            found.append(_compare(name, outputs[name], wanted))
            if wanted.size > 1 and not np.ptp(wanted.astype(np.float64)):
                notes.append(f"{name} is constant in the reference: agreement says little")
    return worst(found), tuple(dict.fromkeys(notes))


def run_sample(session: Session | Walk, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One run; a runtime's own failure on checked inputs is a finding, not a crash."""
    try:
        return session.run(inputs)
    except InputError as error:
        raise EdgekitError(
            f"{session.runtime} loads the graph but cannot run it", error.why or error.what
        ) from error


def _compare(name: str, actual: np.ndarray, wanted: np.ndarray) -> Metrics:
    if actual.shape != wanted.shape:
        raise ParityError(
            f"output {name} has shape {list(actual.shape)}",
            f"the network gives {list(wanted.shape)}",
        )
    return compare(actual, wanted)


@contextmanager
def restored(files: Files, artifact: Artifact) -> Iterator[tuple[Files, Artifact]]:
    """A rejected artifact under its original names, for as long as it is looked at."""
    if not (artifact.file or "").endswith(REJECTED):
        yield files, artifact
        return
    with tempfile.TemporaryDirectory(prefix="edgekit-rejected-") as temporary:
        root = Path(temporary)
        for name in (artifact.file, *artifact.extra):
            _copy(files, name, root / name.removesuffix(REJECTED))
        plain = artifact.model_copy(
            update={
                "file": artifact.file.removesuffix(REJECTED),
                "extra": tuple(name.removesuffix(REJECTED) for name in artifact.extra),
            }
        )
        yield PlainFolder(root), plain


def _copy(files: Files, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if ".mlpackage" in Path(name).name:
        shutil.copytree(files.folder(name), target)
    else:
        shutil.copyfile(files.file(name), target)


class PlainFolder:
    """Files of a plain folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def file(self, rel: str) -> Path:
        return self._root / rel

    def folder(self, rel: str) -> Path:
        return self._root / rel
