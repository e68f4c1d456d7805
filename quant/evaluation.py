"""Evaluate a graph on labelled pictures, on every runtime that works here. Needs no torch.

Each picture is prepared once, by the task's own preprocessing, and shown to all runtimes. The
first few hundred are also timed: one at a time, with one thread (an engine's idle threads may
spin, and would steal time from the next engine), the runtimes taking turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgekit.bundle import Bundle, Files
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.manifest import Accuracy, Artifact, Graph, TaskInfo

from ..runtimes import open_artifact, registry
from ..runtimes.labelled_pictures import LabelledPictures, open_labelled
from ..runtimes.sessions.base import Session
from ..runtimes.tasks.classification import Classification
from ..runtimes.tasks.labels import Labels
from .accuracy import FIVE, Tally

THREADS = 1
TIMED = 320  # pictures that are timed, if there are as many
TURN = 16  # of those, how many a runtime takes before it is the next one's turn
CHUNK = 64  # of the others

Arrays = Mapping[str, np.ndarray]
RunMany = Callable[[Sequence[Arrays]], Sequence[Arrays]]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Row:
    """One way to run the graph, and how well it tells the pictures.

    Attributes:
        runtime: its name, or ``pytorch`` for the eager network. target: whose artifact it ran.
        precision: what the runtime says it computes in. accuracy: None where it failed.
        p50_ms: median of the session's run alone, a picture at a time. bytes: of the artifact.
        error: why there is no accuracy.
    """

    runtime: str
    target: str | None
    precision: str | None
    accuracy: Accuracy | None
    p50_ms: float | None
    bytes: int | None
    error: EdgekitError | None = field(default=None, compare=False)

    @property
    def reason(self) -> str | None:
        """Why there is no accuracy, in a line."""
        return str(self.error) if self.error else None

    def to_json(self) -> dict[str, Any]:
        """Plain values; what could not be measured is None."""
        found = self.accuracy
        return {
            "runtime": self.runtime,
            "target": self.target,
            "precision": self.precision,
            "top1": found.top1 if found else None,
            "top5": found.top5 if found else None,
            "disagreements": found.disagreements if found else None,
            "p50_ms": self.p50_ms,
            "bytes": self.bytes,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Evaluation:
    """All rows over one data set.

    Attributes:
        dataset: name and split. sha256: of the list of samples. samples: how many.
        threads: of each session. timed: how many pictures the medians are of.
        rows: the eager network first, if it took part.
    """

    dataset: str
    sha256: str
    samples: int
    threads: int
    timed: int
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {
            "dataset": self.dataset,
            "sha256": self.sha256,
            "samples": self.samples,
            "threads": self.threads,
            "timed": self.timed,
            "rows": [row.to_json() for row in self.rows],
        }


@dataclass
class Contender:
    """A session that takes part; ``run_many`` is a quicker way to run it on several pictures."""

    name: str
    session: Session
    task: Classification
    target: str | None = None
    bytes: int | None = None
    run_many: RunMany | None = None
    tally: Tally = field(default_factory=Tally)
    times: list[float] = field(default_factory=list)
    error: EdgekitError | None = None

    def take(self, prepared: Sequence[Arrays], classes: Sequence[int], timed: bool) -> None:
        """Answer some pictures; after an error no more."""
        if self.error is not None:
            return
        try:
            for outputs, truth in zip(self._outputs(prepared, timed), classes, strict=True):
                top = self.task.finish(outputs).top
                self.tally.add([guess.index for guess in top], truth)
        except EdgekitError as error:
            self.error = error

    def row(self, reference: Contender | None) -> Row:
        """The figures, beside the answers of ``reference``."""
        known = reference.tally.first if reference and reference.error is None else None
        failed = self.error is not None
        return Row(
            runtime=self.name,
            target=self.target,
            precision=self.session.effective_precision,
            accuracy=None if failed else self.tally.accuracy(known),
            p50_ms=None if failed else round(1000 * statistics.median(self.times), 4),
            bytes=self.bytes,
            error=self.error,
        )

    def _outputs(self, prepared: Sequence[Arrays], timed: bool) -> Iterator[Arrays]:
        if not timed:
            run_many = self.run_many or (lambda many: map(self.session.run, many))
            yield from run_many(prepared)
            return
        self.session.run(prepared[0])  # the caches are the runtime's that ran before
        for inputs in prepared:
            start = time.perf_counter()
            outputs = self.session.run(inputs)
            self.times.append(time.perf_counter() - start)
            yield outputs


def evaluate_bundle(
    bundle: Bundle,
    path: str | Path,
    runtimes: Sequence[str] = (),
    threads: int = THREADS,
    advance: Advance = lambda count: None,
) -> Evaluation:
    """Accuracy and latency of a bundle that exists, on every runtime that works here.

    Args:
        path: labelled pictures, see :func:`edgekit.runtimes.labelled_pictures.open_labelled`.
        runtimes: only these; none: all that the bundle has an artifact for.
        threads: of each session.
        advance: called with the number of pictures that all runtimes have answered since.

    Raises:
        UsageError: the bundle's task is not classification. InputError: the pictures cannot be
            read, or are of other classes.
    """
    task = bundle.manifest.task
    require_classifier(task, str(bundle.path))
    labels = Labels.read(bundle, task.params.get("labels")).names
    pictures = open_labelled(path, labels or None)
    return evaluate_graph(
        bundle, bundle.graph(), task, pictures, runtimes=runtimes, threads=threads, advance=advance
    )


def evaluate_graph(
    files: Files,
    graph: Graph,
    task: TaskInfo,
    pictures: LabelledPictures,
    *,
    runtimes: Sequence[str] = (),
    threads: int = THREADS,
    reference: Contender | None = None,
    advance: Advance = lambda count: None,
) -> Evaluation:
    """Accuracy and latency of one graph's accepted artifacts.

    Args:
        files: a bundle, or one that is being written.
        reference: the eager network, whose answers the others are compared with.
        The others are those of :func:`evaluate_bundle`.

    Raises:
        InputError: a picture cannot be read, or they are of another number of classes.
    """
    check_classes(graph, task, pictures)
    lost: list[Row] = []
    with ExitStack() as opened:
        contenders = [reference] if reference else []
        for artifact in graph.artifacts:
            name = registry.for_target(artifact.target).name
            if artifact.status != "ok" or (runtimes and name not in runtimes):
                continue
            try:
                session = opened.enter_context(open_artifact(files, graph, artifact, threads))
                contenders.append(_contender(session, task, artifact))
            except EdgekitError as error:
                lost.append(_lost(name, artifact, error))
        timed = _show_all(contenders, pictures, advance)
        rows = [contender.row(reference) for contender in contenders]
    return Evaluation(
        dataset=pictures.title,
        sha256=pictures.sha256,
        samples=len(pictures),
        threads=threads,
        timed=timed,
        rows=(*rows, *lost),
    )


def require_classifier(task: TaskInfo, whose: str) -> None:
    """Raise UsageError for a task whose accuracy labelled pictures do not measure."""
    if task.kind != Classification.kind:
        raise UsageError(
            f"the accuracy of {whose} cannot be measured",
            f"labelled pictures are for the task classification, its task is {task.kind}",
            "leave --eval out",
        )


def check_classes(graph: Graph, task: TaskInfo, pictures: LabelledPictures) -> None:
    """Raise InputError where the graph tells another number of classes apart."""
    wanted = task.params.get("output") or graph.outputs[0].name
    shape = next((spec.shape for spec in graph.outputs if spec.name == wanted), ())
    count = shape[-1] if shape else None
    if isinstance(count, int) and count != len(pictures.labels):
        raise InputError(
            f"the data set {pictures.title} has {len(pictures.labels)} classes",
            f"the network has {count}",
            "export a checkpoint that was trained on this data set",
        )


def task_around(session: Session, task: TaskInfo) -> Classification:
    """The classification task around a session: with numbers for labels, answering with five."""
    params = {key: value for key, value in task.params.items() if key != "labels"}
    changed = task.model_copy(update={"params": {**params, "top_k": FIVE}})
    draft: Any = SimpleNamespace(manifest=SimpleNamespace(task=changed), path="BUNDLE")
    return Classification(draft, session)


def _contender(session: Session, task: TaskInfo, artifact: Artifact) -> Contender:
    return Contender(
        session.runtime, session, task_around(session, task), artifact.target, artifact.bytes
    )


def _lost(name: str, artifact: Artifact, error: EdgekitError) -> Row:
    return Row(
        runtime=name,
        target=artifact.target,
        precision=artifact.effective_precision,
        accuracy=None,
        p50_ms=None,
        bytes=artifact.bytes,
        error=error,
    )


def _show_all(contenders: Sequence[Contender], pictures: LabelledPictures, advance: Advance) -> int:
    """Show every picture to every contender; returns how many were timed."""
    if not contenders:
        return 0
    order, prepare = list(contenders), contenders[0].task.prepare
    timed = min(TIMED, len(pictures))
    start = 0
    while start < len(pictures):
        stop = min(start + TURN, timed) if start < timed else start + CHUNK
        chunk = [pictures[index] for index in range(start, min(stop, len(pictures)))]
        prepared = [prepare(source) for source, _ in chunk]
        classes = [index for _, index in chunk]
        for contender in order:
            contender.take(prepared, classes, timed=start < timed)
        order = order[1:] + order[:1]  # none is always the one that follows a busy neighbour
        start += len(chunk)
        advance(len(chunk))
    return timed
