"""The verifier: it, not the exporter, says whether an artifact is still the same model.

Needs no torch: references come from the exporter or from the bundle.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import EdgekitError, InputError, MissingBackendError, ParityError
from edgekit.manifest import Artifact, Graph, Level, Metrics, Verification
from edgekit.metrics import compare, worst

from ..quant.precision import failures, thresholds
from ..runtimes import registry
from ..runtimes.sessions.base import Session
from .reference import Reference

REJECTED = ".rejected"


def verify_artifact(
    files: Files,
    graph: Graph,
    artifact: Artifact,
    reference: Reference,
    *,
    level: Level = "converted",
    runtime: str | None = None,
    tolerance: Mapping[str, float] | None = None,
    notes: tuple[str, ...] = (),
) -> tuple[Verification, str | None]:
    """Run an artifact on its runtime and hold its outputs against the reference.

    Args:
        level: how it is verified where its runtime is not here (``compiled``, ``converted``).
        runtime: which runtime; by default the one for the artifact's target.
        tolerance: bounds that replace some of the precision's own.
        notes: what the target says about the check.

    Returns:
        the verification, and the effective precision if the artifact ran.

    Raises:
        BundleError, UnsupportedError: the runtime does not load the artifact.
    """
    bounds = thresholds(artifact.precision, tolerance)
    try:
        session = open_session(files, graph, artifact, runtime)
    except MissingBackendError as error:
        why = f"not run here: {error.why or error.what}"
        return Verification(level=level, passed=True, thresholds=bounds, notes=(*notes, why)), None
    with session:
        metrics, notes = judge(session, reference)
        precision = session.effective_precision
    broken = failures(metrics, bounds)
    check = Verification(
        level="ran",
        passed=not broken,
        metrics=metrics,
        thresholds=bounds,
        samples=reference.origins,
        notes=(*notes, *broken),
    )
    return check, precision


def open_session(
    files: Files, graph: Graph, artifact: Artifact, runtime: str | None = None
) -> Session:
    """The session for an artifact, rejected ones included."""
    chosen = registry.get(runtime) if runtime else registry.for_target(artifact.target)
    if (lacking := registry.missing(chosen)) is not None:
        raise lacking
    return registry.session_class(chosen)(files, graph, artifact)


def judge(session: Session, reference: Reference) -> tuple[Metrics, tuple[str, ...]]:
    """The worst metrics over all samples and outputs, and what a reader should know of them."""
    found, notes = [], []
    for sample, expected in zip(reference.samples, reference.outputs, strict=True):
        outputs = run_sample(session, sample.inputs)
        for name, wanted in expected.items():
            found.append(_compare(name, outputs[name], wanted))
            if wanted.size > 1 and not np.ptp(wanted.astype(np.float64)):
                notes.append(f"{name} is constant in the reference: agreement says little")
    return worst(found), tuple(dict.fromkeys(notes))


def run_sample(session: Session, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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
