"""Judges artifacts by samples: what PyTorch's fp32 network answers, computed once, and the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import EdgekitError, MissingBackendError
from edgekit.manifest import Artifact, Fidelity, Graph

from ..quant.evaluation import THREADS
from ..quant.fidelity import FidelityTally
from ..quant.samples import Samples
from ..runtimes.sessions.base import Session
from ..runtimes.tasks.classification import Classification
from .capture import FlatGraph
from .captured import Captured
from .evaluate import EagerSession
from .match_rows import matched
from .reference import Reference
from .samples import Sample
from .targets import Target
from .verify import open_to_judge, run_sample

STORED = 4  # samples that the bundle keeps, to verify with on a device
INTERPRETED = 8  # samples shown to an interpreter, which takes seconds for each
MEMORY = 2**29  # bytes of expected outputs that are kept; fewer samples where they need more

_CHUNK = 64

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Judged:
    """What an artifact is like on the samples, and what ran it if not its own runtime."""

    fidelity: Fidelity | None
    by: str | None = None


class SampleJudge:
    """PyTorch's answers to the evaluation samples, and how near others come.

    Attributes:
        samples: those that are judged by. reference: PyTorch's own fidelity (its top-1 where
            there are labels). stored: a few samples and answers, to be kept in the bundle.

    Raises:
        InputError: a sample cannot be read.
    """

    def __init__(
        self, captured: Captured, graph: Graph, task_kind: str, answer: str | None, samples: Samples
    ) -> None:
        classifier = task_kind == Classification.kind
        self._picked = graph.picked
        self._answer = (answer or graph.outputs[0].name) if classifier else captured.spec.answer
        self._several = not classifier
        self._session = EagerSession(FlatGraph(captured.module, captured.spec), graph, THREADS)
        self._expected: list[dict[str, np.ndarray]] = []
        self.samples = samples
        self._compute(batched=classifier)
        self.reference = self._fidelity(zip(self._expected, self._expected, strict=True))
        count = min(STORED, len(self.samples))
        self.stored = Reference(
            tuple(Sample(self.samples.names[i], dict(self.samples[i])) for i in range(count)),
            tuple(self._expected[:count]),
        )

    def _compute(self, batched: bool) -> None:
        kept = 0
        for start in range(0, len(self.samples), _CHUNK):
            indices = range(start, min(start + _CHUNK, len(self.samples)))
            several = [self.samples[index] for index in indices]
            runs = self._session.run_many(several) if batched else map(self._session.run, several)
            for outputs in runs:
                kept += sum(array.nbytes for array in outputs.values())
                self._expected.append({name: array.copy() for name, array in outputs.items()})
            if kept > MEMORY:
                break
        self.samples = self.samples.pick(range(len(self._expected)))

    def judge(
        self, target: Target, files: Files, graph: Graph, artifact: Artifact, progress: Progress
    ) -> Judged:
        """Run an artifact on all samples: on its runtime, else on what can stand in for it.

        Returns:
            no fidelity where nothing here can run it.

        Raises:
            EdgekitError: it does not run.
        """
        by: str | None = None
        limit = len(self.samples)
        try:
            opened = open_to_judge(files, graph, artifact, target.runtime, target.interpret)
            session = opened.session
            if opened.absent:
                by, limit = "edgekit's interpreter", INTERPRETED
        except MissingBackendError:
            session = target.stand_in(files, graph, artifact)
            if session is None:
                return Judged(None)
            by = session.runtime
        count = min(limit, len(self.samples))
        progress(f"{target.name}: judging {artifact.precision} by {count:,} samples")
        with session:
            found = self._fidelity(self._pairs(session, limit))
        if found.samples < len(self.samples):
            found = found.model_copy(update={"top1": None})  # of other pictures than PyTorch's
        return Judged(found, by)

    def _pairs(self, session: Session, limit: int) -> Iterator[tuple[dict, dict]]:
        for index, expected in enumerate(self._expected[:limit]):
            outputs = run_sample(session, self.samples[index])
            if self._picked is not None:
                rows = matched(outputs, expected, self._picked)
                outputs, expected = rows.actual, rows.wanted
            for name, wanted in expected.items():
                if outputs[name].shape != wanted.shape:
                    raise EdgekitError(
                        f"output {name} has shape {list(outputs[name].shape)}",
                        f"the network gives {list(wanted.shape)}",
                    )
            yield outputs, expected

    def _fidelity(self, pairs: Iterator[tuple[dict, dict]]) -> Fidelity:
        tally = FidelityTally(self._answer, self._several)
        labels = self.samples.classes
        for index, (outputs, expected) in enumerate(pairs):
            tally.add(outputs, expected, None if labels is None else labels[index])
        return tally.fidelity()
