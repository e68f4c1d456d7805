"""A cluster whose devices are processes of this machine: to see one at work with no device at hand.

Each rank is a program of its own that is what ``edgekit cluster serve`` and ``edgekit cluster
worker`` are: joined by codes, linked by TLS, with a memory budget of its own. A rank ends when
its standard input does, so that none outlives whoever started it, however that ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgekit.errors import DeviceError, EdgekitError

from .transfer import open_split

HOST: Final = "127.0.0.1"
RESTART: Final = 2.0  # seconds until a worker that was killed is started again
ENDING: Final = 10.0  # seconds that the hub has for the token under way, and its goodbyes
HOMEWARD: Final = 2.0  # seconds that workers have then; a hub that was killed said no goodbye
SAME: Final = 3  # times that the hub gives the same reason, after which it is believed
LONGEST: Final = 64 << 10  # characters of a line of a rank

_TELLING: Final = threading.Lock()
_PROGRAM: Final = "from edgekit.devices.cluster.local import rank; raise SystemExit(rank())"


@dataclass(frozen=True)
class LocalSettings:
    """How the ranks of a local cluster work.

    Attributes:
        model: its name for clients. memory_budget: bytes of each process; None for no bound.
        threads: of each rank; None for its part of the cores. context: tokens that fit.
        seconds: the longest wait for a rank within a step. collective: as of a
            :class:`~.formation.FormSettings`.
        engine: further arguments of :meth:`.Engine.open`.
    """

    model: str
    memory_budget: int | None = None
    threads: int | None = None
    context: int = 2048
    seconds: float = 10.0
    collective: str = "auto"
    engine: dict[str, Any] = field(default_factory=dict)


class LocalCluster:
    """A hub and its workers, from opening to end. Use as a context manager.

    A worker that is killed is started again, as a service would be.

    Args:
        parts: a split model. folder: for keys and shards of this cluster alone.
        say: told in a line what happens.

    Attributes:
        url, key: of the hub's endpoint, once the block has begun.

    Raises:
        InputError, BundleError: ``parts`` is no split model.
        DeviceError: the hub cannot begin.
    """

    def __init__(
        self,
        parts: Path,
        folder: Path,
        settings: LocalSettings,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._parts, self._folder, self._settings, self._say = parts, folder, settings, say
        self._nodes = open_split(parts).nodes
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._ranks: dict[str, _Rank] = {}
        self._complete, self._failure = False, ""
        self._warned: tuple[str, int] = ("", 0)
        self.url, self.key = "", secrets.token_urlsafe(16)

    @property
    def processes(self) -> dict[str, int]:
        """The ranks' names and process ids."""
        with self._changed:
            return {name: rank.process.pid for name, rank in self._ranks.items()}

    def __enter__(self) -> LocalCluster:
        try:
            self._start("hub", self._about("hub") | {"parts": str(self._parts), "key": self.key})
            self._wait(lambda: self.url)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def wait(self) -> None:
        """Until every rank is ready.

        Raises:
            DeviceError: one of them cannot be.
        """
        self._wait(lambda: self._complete)

    def close(self) -> None:
        """Let the hub send its workers home, and end whoever does not go."""
        with self._changed:
            self._ended.set()
            ranks = list(self._ranks.values())
        for rank in ranks[:1]:  # the hub
            rank.end()
            rank.wait(ENDING)
        until = time.monotonic() + HOMEWARD
        for rank in ranks[1:]:
            rank.wait(until - time.monotonic())

    def _wait(self, true: Callable[[], object]) -> None:
        with self._changed:
            while not true():
                if self._failure:
                    raise DeviceError("the cluster on this machine cannot begin", self._failure)
                self._changed.wait(0.5)

    def _about(self, name: str) -> dict[str, Any]:
        settings = self._settings
        threads = settings.threads or max(1, len(os.sched_getaffinity(0)) // self._nodes)
        return {
            "role": "hub" if name == "hub" else "worker",
            "state": str(self._folder / name),
            "model": settings.model,
            "workers": self._nodes - 1,
            "memory_budget": settings.memory_budget,
            "threads": threads,
            "context": settings.context,
            "seconds": settings.seconds,
            "collective": settings.collective,
            "engine": settings.engine,
        }

    def _start(self, name: str, document: dict[str, Any]) -> None:
        with self._changed:
            if self._ended.is_set():
                return
            rank = self._ranks[name] = _Rank(document)
        threading.Thread(
            target=self._attend, args=(name, rank, document), name=name, daemon=True
        ).start()

    def _attend(self, name: str, rank: _Rank, document: dict[str, Any]) -> None:
        """Hear a rank until it ends; start a worker again that was killed."""
        for told in rank.lines():
            with self._changed:
                self._take(name, told)
                self._changed.notify_all()
        code = rank.process.wait()
        if self._ended.is_set():
            return
        if code < 0 and name != "hub":
            self._say(f"{name} ended by {signal.Signals(-code).name}; it is started again")
            if not self._ended.wait(RESTART):
                self._start(name, document)
            return
        with self._changed:
            self._failure = self._failure or f"{name} ended with code {code}"
            self._changed.notify_all()
        self._say(self._failure)

    def _take(self, name: str, told: dict[str, Any]) -> None:
        kind = told.get("type")
        if kind == "line":
            self._say(f"{name}: {told['text']}")
            self._judge(told["text"] if told.get("warning") else "")
        elif kind == "listening":
            self.url = told["url"]
            for number, code in enumerate(told["codes"], 1):
                joins = self._about(f"worker-{number}") | {"code": code, "port": told["join"]}
                self._start(f"worker-{number}", joins | {"name": f"worker-{number}"})
        elif kind == "complete":
            self._complete = True
        elif kind == "failed":
            self._failure = f"{name}: {told['why']}"

    def _judge(self, warning: str) -> None:
        """What the hub gives as its reason again and again keeps it from beginning."""
        if not warning or self._complete:
            return
        before, times = self._warned
        self._warned = (warning, times + 1 if warning == before else 1)
        if self._warned[1] >= SAME:
            self._failure = warning


class _Rank:
    """One process, told by a line of JSON what it is, and telling lines of JSON."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl+C is for whoever started it, who ends it in order
        )
        with contextlib.suppress(OSError):  # it ended at once: its reader will notice
            self.process.stdin.write(json.dumps(document) + "\n")
            self.process.stdin.flush()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends."""
        while line := self.process.stdout.readline(LONGEST):
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                if isinstance(told, dict):
                    yield told

    def end(self) -> None:
        """Say that it is over."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Until it ended; after some seconds by force."""
        try:
            self.process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.end()


# ---- within a rank's process ----------------------------------------------------------------


def rank() -> int:
    """What a rank's process does; its exit code."""
    from .serving import lines_of_log

    document = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work = {"hub": _hub, "worker": _worker}[document["role"]]
    try:
        with lines_of_log(lambda line: _tell(type="line", text=line, warning=True)):
            work(document)
    except EdgekitError as error:
        _tell(type="failed", why=str(error))
        return error.exit_code
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _tell(**told: Any) -> None:
    # Threads tell at once, and `print` writes a line and its end apart.
    with _TELLING, contextlib.suppress(OSError):  # or nobody listens any more
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def _hub(about: dict[str, Any]) -> None:
    from .formation import FormSettings
    from .hub import HubSettings
    from .serving import HttpSettings, Serving, open_splits

    settings = HubSettings(
        Path(about["state"]),
        address=(HOST, 0),
        memory_budget=about["memory_budget"],
        threads=about["threads"],
        form=FormSettings(
            about["seconds"], collective=about["collective"], context=about["context"]
        ),
        engine=about["engine"],
    )
    web = HttpSettings(about["model"], HOST, 0, about["key"])
    serving = Serving(open_splits([Path(about["parts"])]), settings, web)
    threading.Thread(target=_announce, args=(serving, about["workers"]), daemon=True).start()
    serving.run()


def _announce(serving: Any, workers: int) -> None:
    """Where the hub listens, with codes for its workers; then that they are there."""
    while not serving.started:
        time.sleep(0.02)
    codes = [str(serving.hub.codes.issue()) for _ in range(workers)]
    _tell(
        type="listening",
        url=f"http://{HOST}:{serving.port}",
        join=serving.hub.door.address[1],
        codes=codes,
    )
    while not serving.hub.complete:
        time.sleep(0.05)
    _tell(type="complete")


def _worker(about: dict[str, Any]) -> None:
    from .join_code import JoinCode
    from .worker import Worker, WorkerSettings

    settings = WorkerSettings(
        (HOST, about["port"]),
        Path(about["state"]),
        about["name"],
        about["memory_budget"],
        about["threads"],
        mesh_host=HOST,
        engine=about["engine"],
    )
    say = lambda line: _tell(type="line", text=line)  # noqa: E731
    Worker(settings, JoinCode.parse(about["code"]), say).run()
