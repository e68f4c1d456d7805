"""The model at work: one task on one runtime, on a thread of its own, changed while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from edgekit.bundle import Bundle
from edgekit.errors import UsageError

from ...runtimes import AUTO, available, load, registry, tasks
from ...runtimes.tasks.base import Task

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Choice:
    """A bundle on a runtime.

    Attributes:
        bundle: index of the bundle. runtime: its name. precision: what it computes in there.
    """

    bundle: int
    runtime: str
    precision: str

    @property
    def label(self) -> str:
        """For people: ``onnxruntime, int8``."""
        return f"{self.runtime}, {self.precision}"


@dataclass(frozen=True)
class Timed(Generic[Answer]):
    """What a call gave, and how long it took and waited before, ms."""

    answer: Answer
    model: float
    wait: float


class Engine:
    """Bundles of one task, of which one is open on one runtime. Use as a context manager.

    All calls of the model are made in one thread, in turn.

    Args:
        bundles: of the same task; several are several precisions of a model.
        kinds: the names of tasks that will do. command: of the demo, for errors.
        runtime: to begin with; ``auto``: the fastest. threads: of the runtime.
        prepare: what is done to each task before its first call.

    Attributes:
        choices: all that can be chosen. chosen: the index of the one at work.
        model: the model's name.

    Raises:
        UsageError: a bundle is of another task, or nothing of it runs here.
        MissingBackendError, BundleError: as :func:`edgekit.runtimes.load`.
    """

    def __init__(
        self,
        bundles: Sequence[Path],
        kinds: Sequence[str],
        runtime: str = AUTO,
        threads: int | None = None,
        prepare: Callable[[Task], None] = lambda task: None,
    ) -> None:
        self._threads, self._prepare = threads, prepare
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._stack = ExitStack()
        try:
            self._bundles = [self._stack.enter_context(Bundle.open(path)) for path in bundles]
            for bundle in self._bundles:
                _check_task(bundle, kinds)
            self.choices = _choices(self._bundles)
            self.model = self._bundles[0].manifest.model.name
            self.chosen, self._task = self._first(runtime)
        except BaseException:
            self.close()
            raise

    @property
    def task(self) -> Task:
        """The one at work; call it by :meth:`run` alone."""
        return self._task

    @property
    def choice(self) -> Choice:
        """What is at work."""
        return self.choices[self.chosen]

    @property
    def random(self) -> bool:
        """Whether the weights are random, so that answers mean nothing."""
        return self._bundles[0].manifest.model.weights.startswith("random")

    async def run(self, call: Callable[[Any], Answer]) -> Timed[Answer]:
        """Call with the task, in the model's thread. A call that began is never broken off."""
        asked = time.perf_counter()

        def timed() -> Timed[Answer]:
            begun = time.perf_counter()
            answer = call(self._task)
            ended = time.perf_counter()
            return Timed(answer, 1000 * (ended - begun), 1000 * (begun - asked))

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)

    async def choose(self, index: int) -> None:
        """Go over to another choice; the one at work goes on until it is loaded.

        Raises:
            UsageError: there is no such choice.
            EdgekitError: it cannot be loaded; what was at work stays.
        """
        if not 0 <= index < len(self.choices):
            raise UsageError(f"there is no choice {index}", f"there are {len(self.choices)}")

        def change() -> None:
            if index != self.chosen:
                task = self._open(self.choices[index])
                self._task.session.close()
                self.chosen, self._task = index, task

        await asyncio.get_running_loop().run_in_executor(self._thread, change)

    def close(self) -> None:
        """Wait for the call under way, and close the model."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if (task := getattr(self, "_task", None)) is not None:
            task.session.close()
        self._stack.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _first(self, runtime: str) -> tuple[int, Task]:
        task = self._task_of(load(self._bundles[0], runtime, self._threads), 0)
        names = [(choice.bundle, choice.runtime) for choice in self.choices]
        return names.index((0, task.session.runtime)), task

    def _open(self, choice: Choice) -> Task:
        session = load(self._bundles[choice.bundle], choice.runtime, self._threads)
        return self._task_of(session, choice.bundle)

    def _task_of(self, session: Any, bundle: int) -> Task:
        try:
            task = tasks.for_bundle(self._bundles[bundle], session)
            self._prepare(task)
        except BaseException:
            session.close()
            raise
        return task


def _check_task(bundle: Bundle, kinds: Sequence[str]) -> None:
    kind = bundle.manifest.task.kind
    if kind not in kinds:
        raise UsageError(
            f"this demo does not show {bundle.path}",
            f"its task is {kind}, and {' or '.join(kinds)} is shown",
            "edgekit models lists the task of each model",
        )


def _choices(bundles: Sequence[Bundle]) -> tuple[Choice, ...]:
    found = []
    for index, bundle in enumerate(bundles):
        for name in available(bundle):
            target = registry.RUNTIMES[name].target
            # A task's own graph comes first; its alternatives are those after it.
            used = (a for g in bundle.manifest.graphs for a in g.artifacts if a.target == target)
            stated = next((a.effective_precision for a in used if a.status == "ok"), None)
            found.append(Choice(index, name, stated or bundle.manifest.precision))
    return tuple(found)
