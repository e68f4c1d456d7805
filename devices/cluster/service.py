"""Requests for text, one after the other: a queue with an end before the one cluster."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from edgekit.errors import DeviceError, EdgekitError, InputError

from .generate import Predicts, Sampling, generate_ids
from .tokens import Stream, Tokens

WAITING: Final = 8  # requests that may wait
_LOOK: Final = 0.5  # seconds between two looks at whether the cluster is complete

log = logging.getLogger("edgekit.cluster")


class QueueFullError(DeviceError):
    """More requests wait than may."""


class Computes(Predicts, Protocol):
    """What a service needs of a hub."""

    ids: list[int]
    complete: bool

    def truncate(self, position: int) -> None:
        """Forget the tokens from ``position`` on."""

    def rest(self) -> None:
        """Nothing is to be computed for now."""

    def form(self) -> None:
        """Wait until the cluster is complete."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        ids: the prompt. most: tokens at most. stop: texts that end it, and are not part of it.
        end: ids that end it.
    """

    ids: Sequence[int]
    most: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    end: tuple[int, ...] = ()


@dataclass(frozen=True)
class Said:
    """A piece of the answer; the last one has a reason or an error.

    Attributes:
        reason: ``stop`` or ``length``. tokens: generated so far.
    """

    text: str = ""
    reason: str | None = None
    tokens: int = 0
    error: EdgekitError | None = None


class Job:
    """A request on its way.

    Args:
        tell: gets every piece, in the service's thread.
    """

    def __init__(self, request: Request, tell: Callable[[Said], None]) -> None:
        self.request, self.tell = request, tell
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Nobody wants it any more: no further token is computed."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants it any more."""
        return self._cancelled.is_set()


class Service:
    """Runs one generation at a time, in a thread of its own.

    Args:
        hub: the cluster. tokens: of its model. waiting: requests that may wait.

    Attributes:
        counts: requests that were ``done``, ``cancelled``, ``failed`` and ``refused``, and
            ``tokens``.
    """

    def __init__(self, hub: Computes, tokens: Tokens, waiting: int = WAITING) -> None:
        self._hub, self._tokens, self._most = hub, tokens, waiting
        self._jobs: queue.Queue[Job] = queue.Queue()
        self._waiting: list[Job] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        names = ("done", "cancelled", "failed", "refused", "tokens")
        self.counts: dict[str, int] = dict.fromkeys(names, 0)
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)

    def start(self) -> None:
        """Begin to serve; the cluster is formed as soon as its workers are there."""
        self._thread.start()

    def close(self, seconds: float = 10.0) -> None:
        """Stop after the present token; who waits is told."""
        self._ended.set()
        with self._lock:
            for job in self._waiting:
                job.cancel()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def waiting(self) -> int:
        """Requests that wait, or are being answered."""
        with self._lock:
            return len(self._waiting)

    def submit(self, request: Request, tell: Callable[[Said], None]) -> Job:
        """Queue a request.

        Raises:
            QueueFullError: too many wait.
        """
        job = Job(request, tell)
        with self._lock:
            # Who went while the cluster is incomplete makes room at once.
            self._waiting = [one for one in self._waiting if not one.cancelled]
            if len(self._waiting) > self._most:
                self.counts["refused"] += 1
                raise QueueFullError(f"{len(self._waiting)} requests wait", "", "try again later")
            self._waiting.append(job)
        self._jobs.put(job)
        return job

    def _work(self) -> None:
        while not self._ended.is_set():
            try:
                job = self._jobs.get(timeout=_LOOK)
            except queue.Empty:
                self._get_ready()
                continue
            try:
                self._answer(job)
            finally:
                with self._lock:
                    if job in self._waiting:
                        self._waiting.remove(job)

    def _get_ready(self) -> None:
        """Form the cluster before the first request needs it, and after a worker was lost."""
        if self._hub.complete:
            return
        try:
            self._hub.form()
        except EdgekitError as error:
            if not self._ended.is_set():
                log.warning("%s", error)
                time.sleep(_LOOK)

    def _answer(self, job: Job) -> None:
        if job.cancelled:
            self.counts["cancelled"] += 1
            return
        said = Said()
        try:
            for said in self._generate(job):
                job.tell(said)
            # Who has the last piece may go before this is counted.
            self.counts["done" if said.reason else "cancelled"] += 1
        except EdgekitError as error:
            self.counts["failed"] += 1
            job.tell(Said(error=error))
        except Exception as error:  # a fault of ours ends the request, not the service
            log.exception("a request failed")
            self.counts["failed"] += 1
            job.tell(Said(error=DeviceError("a fault in edgekit", type(error).__name__)))
        finally:
            self._hub.rest()

    def _generate(self, job: Job) -> Iterator[Said]:
        request, stream = job.request, Stream(self._tokens)
        if not request.ids:
            raise InputError("the prompt is empty", "", "give at least a word")
        kept = _common(self._hub.ids, request.ids)
        self._hub.truncate(kept)
        rest = request.ids[kept:]
        count, stop = 0, StopTexts(request.stop)
        for token in generate_ids(self._hub, rest, request.most, request.sampling, request.end):
            if job.cancelled or self._ended.is_set():
                job.cancel()
                return
            count += 1
            self.counts["tokens"] += 1
            text = stop.add(stream.add(token))
            if text or stop.met:
                yield Said(text, "stop" if stop.met else None, count)
            if stop.met:
                return
        full = count >= request.most or self._hub.position >= self._hub.context
        text = stop.add(stream.end()) + stop.end()
        yield Said(text, "length" if full and not stop.met else "stop", count)


def _common(held: Sequence[int], wanted: Sequence[int]) -> int:
    """How long a beginning both have; one token at least stays to be computed."""
    most = min(len(held), len(wanted) - 1)
    return next((i for i in range(most) if held[i] != wanted[i]), max(most, 0))


class StopTexts:
    """Lets text through up to the first of some texts, and holds back what may begin one.

    Attributes:
        met: whether one was found; nothing comes after it.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [text for text in texts if text]
        self._held, self.met = "", False

    def add(self, text: str) -> str:
        """What is certain to be part of the answer."""
        if self.met:
            return ""
        self._held += text
        found = [place for one in self._texts if (place := self._held.find(one)) >= 0]
        if found:
            self.met, known, self._held = True, self._held[: min(found)], ""
            return known
        keep = max((self._overlap(one) for one in self._texts), default=0)
        cut = len(self._held) - keep
        known, self._held = self._held[:cut], self._held[cut:]
        return known

    def end(self) -> str:
        """What was held back in vain."""
        held, self._held = self._held, ""
        return "" if self.met else held

    def _overlap(self, text: str) -> int:
        most = min(len(text) - 1, len(self._held))
        return next((n for n in range(most, 0, -1) if self._held.endswith(text[:n])), 0)


def describe_counts(service: Service) -> dict[str, Any]:
    """The service's counts for JSON."""
    return dict(service.counts) | {"waiting": service.waiting}
