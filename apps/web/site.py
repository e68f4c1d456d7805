"""A demo as a web application: its page, one WebSocket a viewer, and what each is told.

Every viewer has an outbox that keeps the newest frames: whoever reads slowly misses some, and
holds up nobody. Of what is a state, such as the figures, only the latest is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from edgekit.errors import EdgekitError, InputError

from .engine import Engine
from .frames import Frame
from .meter import Figures, Meter
from .newest import Newest
from .serve import LARGEST

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute
    from starlette.websockets import WebSocket

STATIC: Final = Path(__file__).parent / "static"
READ_OUT: Final = 0.5  # seconds between two readings of the figures
MOST_VIEWERS: Final = 32
WAITING: Final = 8  # messages that a viewer may be behind
FAULTS: Final = 20  # messages that make no sense, after which a viewer is sent away

log = logging.getLogger("edgekit.demo")


class Viewer:
    """Somebody with the page open."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._stream: Newest[str | bytes] = Newest(WAITING)
        self._states: dict[str, str | Callable[[], dict[str, Any]]] = {}
        self.faults = 0

    def tell(self, message: dict[str, Any] | bytes) -> None:
        """Send a message in turn; the oldest that waits goes if there are too many."""
        self._stream.put(message if isinstance(message, bytes) else json.dumps(message))

    def state(self, message: dict[str, Any]) -> None:
        """Send the latest of its ``type``; one that still waits is replaced."""
        self._wait(message["type"], json.dumps(message))

    def grown(self, kind: str, rest: Callable[[], dict[str, Any]]) -> None:
        """Send what ``rest`` gives once it can be sent: of what grows, all that is new by then."""
        self._wait(kind, rest)

    def _wait(self, kind: str, told: str | Callable[[], dict[str, Any]]) -> None:
        self._states[kind] = told
        if not len(self._stream):  # else what waits there wakes whoever sends, and must not go
            self._stream.put("")

    async def send(self) -> None:
        """Until the connection ends."""
        while True:
            message = await self._stream.get()
            states, self._states = self._states, {}
            for told in (*states.values(), message):
                if callable(told):
                    await self._socket.send_text(json.dumps(told()))
                elif isinstance(told, bytes):
                    await self._socket.send_bytes(told)
                elif told:
                    await self._socket.send_text(told)


class Demo(ABC):
    """What one demo does with messages; the rest is done here.

    Args:
        engine: the model at work; None where the model is elsewhere.

    Attributes:
        page: name of its HTML file. title: for people. largest: bytes of a message to it.
        meter: of the model's latency; a demo feeds it. viewers: who looks on.
    """

    page: ClassVar[str]
    title: ClassVar[str]
    largest: ClassVar[int] = LARGEST

    def __init__(self, engine: Engine | None) -> None:
        self.engine, self.meter = engine, Meter()
        self.viewers: set[Viewer] = set()
        self.figures: Figures = self.meter.read()

    async def work(self) -> None:  # noqa: B027
        """What goes on whether or not anybody looks on; by default nothing."""

    async def on_frame(self, viewer: Viewer, frame: Frame) -> None:
        """A binary message of a viewer.

        Raises:
            InputError: the demo takes none, or it makes no sense.
        """
        raise InputError(f"{self.title} takes no frames")

    async def on_message(self, viewer: Viewer, message: dict[str, Any]) -> None:
        """A JSON message of a viewer that is not for all demos.

        Raises:
            InputError: it makes no sense.
        """
        raise InputError(f"{self.title} knows no message {str(message.get('type'))[:40]!r}")

    def arrived(self, viewer: Viewer) -> None:  # noqa: B027 -- not every demo minds
        """Somebody opened the page; ``state`` has been sent to them."""

    def left(self, viewer: Viewer) -> None:  # noqa: B027
        """Somebody went, or vanished."""

    def changed(self) -> None:  # noqa: B027
        """Another choice is at work: what was begun with the one before is void."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """What of the demo itself its page shows."""

    def summary(self) -> dict[str, Any]:
        """What the command tells at the end, beside the figures."""
        return {}

    def routes(self) -> list[BaseRoute]:
        """Further addresses of the demo."""
        return []

    def state(self) -> dict[str, Any]:
        """All that a page needs to know, as JSON of type ``state``."""
        told: dict[str, Any] = {"type": "state", "demo": self.title, "viewers": len(self.viewers)}
        if self.engine is not None:
            told |= {
                "model": self.engine.model,
                "random": self.engine.random,
                "choices": [choice.label for choice in self.engine.choices],
                "chosen": self.engine.chosen,
            }
        return told | self.details()

    def tell_state(self) -> None:
        """Send the state to everybody."""
        state = self.state()
        for viewer in self.viewers:
            viewer.state(state)

    def tell(self, message: dict[str, Any] | bytes) -> None:
        """Send a message to everybody."""
        for viewer in self.viewers:
            viewer.tell(message)


class Site:
    """The web application of a demo."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo

    def application(self) -> Starlette:
        """Without the gate, which belongs in front of it."""
        from starlette.applications import Starlette
        from starlette.routing import Mount, Route, WebSocketRoute
        from starlette.staticfiles import StaticFiles

        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/status", self._status),
                WebSocketRoute("/live", self._live),
                *self.demo.routes(),
                Mount("/static", StaticFiles(directory=STATIC)),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: object) -> AsyncIterator[None]:
        jobs = [asyncio.create_task(job) for job in (self.demo.work(), self._read_out())]
        for job in jobs:
            job.add_done_callback(_complain)
        try:
            yield
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _read_out(self) -> None:
        while True:
            await asyncio.sleep(READ_OUT)
            self.demo.figures = figures = self.demo.meter.read()
            for viewer in self.demo.viewers:
                viewer.state({"type": "figures", **figures.to_json()})

    async def _page(self, request: Request) -> Response:
        from starlette.responses import FileResponse

        return FileResponse(STATIC / self.demo.page)

    async def _status(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse(self.demo.state() | {"figures": self.demo.figures.to_json()})

    async def _live(self, socket: WebSocket) -> None:
        await socket.accept()
        if len(self.demo.viewers) >= MOST_VIEWERS:
            await socket.close(1013, f"{MOST_VIEWERS} viewers are the most; try again later")
            return
        viewer = Viewer(socket)
        self.demo.viewers.add(viewer)
        self.demo.tell_state()
        self.demo.arrived(viewer)
        jobs = [asyncio.create_task(job) for job in (viewer.send(), self._listen(viewer, socket))]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for job in jobs:
                job.cancel()
            for ended in await asyncio.gather(*jobs, return_exceptions=True):
                _log_end(ended)
            self.demo.viewers.discard(viewer)
            self.demo.left(viewer)
            self.demo.tell_state()

    async def _listen(self, viewer: Viewer, socket: WebSocket) -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                await self._take(viewer, message)
            except EdgekitError as fault:
                viewer.tell({"type": "error", "words": str(fault)})
                viewer.faults += 1
                if viewer.faults == FAULTS:
                    await socket.close(1008, "too many messages make no sense")
                    return

    async def _take(self, viewer: Viewer, message: dict[str, Any]) -> None:
        if (data := message.get("bytes")) is not None:
            await self.demo.on_frame(viewer, Frame.parse(data))
            return
        try:
            told = json.loads(message.get("text") or "")
            kind = told["type"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                "a message makes no sense", "it is no JSON object with a type"
            ) from None
        if kind == "choose" and self.demo.engine is not None:
            await self._choose(told.get("choice"))
        else:
            await self.demo.on_message(viewer, told)

    async def _choose(self, choice: object) -> None:
        if not isinstance(choice, int):
            raise InputError("a choice is a number")
        try:
            await self.demo.engine.choose(choice)
            self.demo.meter.clear()
            self.demo.changed()
        finally:
            self.demo.tell_state()  # where it failed, the page shows what is still at work


def _log_end(ended: object) -> None:
    if isinstance(ended, EdgekitError):
        log.warning("a viewer was sent away: %s", ended)
    elif isinstance(ended, Exception):
        log.info("a viewer went: %s", type(ended).__name__)


def _complain(job: asyncio.Task[None]) -> None:
    if not job.cancelled() and (error := job.exception()) is not None:
        log.error("the demo's work ended: %s", error, exc_info=error)
