"""``edgekit demo talk``: a dialogue in speech, full duplex, one conversation at a time.

The WebSocket is the one of Moshi's web client, and the page here speaks the same protocol. Sound
that cannot be kept up with is dropped, the oldest first: what waits to be heard, and what waits to
be sent, is never more than 160 ms each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from edgekit.errors import EdgekitError, InputError, UsageError

from ..runtimes import AUTO
from ..runtimes.codec import Framer
from ..runtimes.conversation import Reply
from ..runtimes.dialogue import Sampling
from ..runtimes.tasks.speech_dialogue import SpeechDialogue
from . import talk_protocol as protocol
from .ogg_opus import OpusDecoder, OpusEncoder, require_av
from .talk_protocol import Control, Kind
from .web.engine import Engine, Timed
from .web.newest import Newest
from .web.pace import Pace
from .web.site import Demo

if TYPE_CHECKING:
    from starlette.routing import BaseRoute
    from starlette.websockets import WebSocket

KINDS: Final = ("speech-dialogue",)
FRAMES: Final = 2  # of 80 ms, that may wait
SILENT: Final = 60.0  # seconds without a message after which a client is taken for gone
FAULTS: Final = 8  # messages that make no sense, after which it is sent away

log = logging.getLogger("edgekit.talk")


@dataclass
class Told:
    """What became of a session.

    Attributes:
        heard, sent: frames. dropped_in, dropped_out: frames that were too old.
        faults: messages that made no sense. unknown: messages of kinds to be discarded.
    """

    heard: int = 0
    sent: int = 0
    dropped_in: int = 0
    dropped_out: int = 0
    faults: list[str] = field(default_factory=list)
    unknown: int = 0


class Talk:
    """One client's session.

    Args:
        engine: of the dialogue. sampling: how tokens are drawn. stepped: told of each frame.
    """

    def __init__(
        self,
        socket: WebSocket,
        engine: Engine,
        sampling: Sampling,
        stepped: Callable[[Timed[Reply | None]], None] = lambda timed: None,
    ) -> None:
        self._socket, self._engine = socket, engine
        self._sampling, self._stepped = sampling, stepped
        self._loop = asyncio.get_running_loop()
        self._inbox: Newest[np.ndarray] = Newest(FRAMES)
        self._outbox: Newest[Reply] = Newest(FRAMES)
        self._framer = Framer(engine.task.conversation.frame)
        self._begun, self._paused = False, False
        self._sending = asyncio.Lock()
        self._decoder: OpusDecoder | None = None
        self.told = Told()

    async def run(self) -> None:
        """Until the client goes, or is sent away."""
        await self._send(protocol.handshake())
        jobs = [asyncio.create_task(job()) for job in (self._receive, self._think, self._speak)]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            # A call of the model goes on to its end; the next client's come after it.
            await asyncio.gather(*jobs, return_exceptions=True)
            if self._decoder is not None:
                await asyncio.to_thread(self._decoder.close)
            self._count()

    def _count(self) -> None:
        self.told.dropped_in, self.told.dropped_out = self._inbox.dropped, self._outbox.dropped

    async def _receive(self) -> None:
        while True:
            message = await asyncio.wait_for(self._socket.receive(), SILENT)
            if message["type"] == "websocket.disconnect":
                return
            try:
                await self._take(message)
            except InputError as fault:
                await self._complain(str(fault))

    async def _take(self, message: dict[str, Any]) -> None:
        data = message.get("bytes")
        if data is None:
            raise InputError("a text message", "this protocol is binary")
        found = protocol.parse(data)
        if found is None:
            self.told.unknown += 1
            return
        kind, content = found
        if kind == Kind.AUDIO:
            self._listen(content)
        elif kind == Kind.CONTROL:
            self._control(Control(content[0]))
        elif kind in (Kind.HANDSHAKE, Kind.ERROR):
            raise InputError(f"a message of kind {kind.name.lower()}", "only a server sends those")

    def _listen(self, content: bytes) -> None:
        if self._decoder is None:
            call = self._loop.call_soon_threadsafe
            self._decoder = OpusDecoder(
                lambda samples: call(self._hear, samples),
                lambda words: call(self._lost, words),
            )
        self._decoder.feed(content)

    def _hear(self, samples: np.ndarray) -> None:
        if not self._paused:
            for frame in self._framer.feed(samples):
                self._inbox.put(frame.copy())

    def _lost(self, words: str) -> None:
        """The stream broke off: what comes next begins a new one."""
        self._decoder = None
        self._framer.reset()
        task = self._loop.create_task(self._complain(words))
        task.add_done_callback(lambda done: done.exception())

    def _control(self, action: Control) -> None:
        if action == Control.RESTART:
            self._begun = False
            self._inbox.clear()
            self._outbox.clear()
        self._paused = action == Control.PAUSE

    async def _think(self) -> None:
        while True:
            frame = await self._inbox.get()
            begins, self._begun = not self._begun, True
            timed = await self._engine.run(partial(self._answer, frame, begins))
            self.told.heard += 1
            if timed.answer is not None:
                self._outbox.put(timed.answer)
            self._count()
            self._stepped(timed)

    def _answer(self, frame: np.ndarray, begins: bool, task: SpeechDialogue) -> Reply | None:
        if not begins:
            return task.conversation.hear(frame)
        task.conversation.dialogue.sampling = self._sampling
        task.conversation.begin(frame)
        return None

    async def _speak(self) -> None:
        encoder = OpusEncoder()
        while True:
            reply = await self._outbox.get()
            if data := encoder.encode(reply.sound):
                await self._send(protocol.audio(data))
            if reply.text:
                await self._send(protocol.text(reply.text))
            self.told.sent += 1

    async def _complain(self, words: str) -> None:
        log.warning("a client's message was passed over: %s", words)
        self.told.faults.append(words)
        await self._send(protocol.error(words))
        if len(self.told.faults) == FAULTS:
            await self._socket.close(protocol.REFUSED, "too many messages make no sense")

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            await self._socket.send_bytes(data)


class Conversing(Engine):
    """A dialogue at work: another runtime is taken between conversations alone, whose state a
    switch would lose.

    Attributes:
        busy: whether somebody is talking.
    """

    busy = False

    async def choose(self, index: int) -> None:
        """As :meth:`Engine.choose`.

        Raises:
            UsageError: somebody is talking.
        """
        if self.busy:
            raise UsageError(
                "somebody is talking",
                "another runtime is taken between conversations",
                "stop first",
            )
        await super().choose(index)


class TalkDemo(Demo):
    """The page, and the application around one conversation's graphs.

    Args:
        engine: whose conversation is open already: the first client need not wait.

    Attributes:
        sessions: what became of each, the last ones.
    """

    page: ClassVar[str] = "talk.html"
    title: ClassVar[str] = "talk"
    largest: ClassVar[int] = protocol.LARGEST

    def __init__(self, engine: Conversing) -> None:
        super().__init__(engine)
        self._frame = engine.task.conversation.frame / engine.task.params.codec.rate
        self._pace = Pace(round(10 / self._frame))
        self._gone = 0  # frames that were dropped in sessions that have ended
        self._told = Told()
        self.sessions: deque[Told] = deque(maxlen=16)

    @property
    def busy(self) -> bool:
        """Whether somebody is talking."""
        return self.engine.busy

    def details(self) -> dict[str, Any]:
        """Whether it is free, and how it keeps up."""
        return {"busy": self.busy, "frame": self._frame, **self._progress()}

    def _progress(self) -> dict[str, Any]:
        """Of the present session, or of the last: frames, and the real-time factor."""
        told = self._told
        return {
            "factor": self._pace.factor,
            "heard": told.heard,
            "sent": told.sent,
            "dropped_in": told.dropped_in,
            "dropped_out": told.dropped_out,
        }

    def changed(self) -> None:
        """Another runtime has another pace."""
        self._pace.clear()

    def summary(self) -> dict[str, Any]:
        """What became of the last sessions."""
        return {"sessions": [vars(told) for told in self.sessions]}

    def routes(self) -> list[BaseRoute]:
        """The addresses of Moshi's server."""
        from starlette.responses import JSONResponse
        from starlette.routing import Route, WebSocketRoute

        def status(request: object) -> JSONResponse:
            return JSONResponse({"model": self.engine.model, "busy": self.busy})

        return [Route("/api/status", status), WebSocketRoute(protocol.PATH, self._serve)]

    async def _serve(self, socket: WebSocket) -> None:
        await socket.accept()
        if self.busy:
            await self._turn_away(
                socket, protocol.BUSY, "busy: somebody else is talking; try again later"
            )
            return
        self.engine.busy = True
        self.tell_state()
        try:
            await self._converse(socket)
        finally:
            self.engine.busy = False
            self.tell_state()

    async def _converse(self, socket: WebSocket) -> None:
        from starlette.websockets import WebSocketDisconnect

        try:
            sampling = protocol.sampling(socket.query_params)
        except InputError as error:
            await self._turn_away(socket, protocol.REFUSED, str(error))
            return
        talk = Talk(socket, self.engine, sampling, self._stepped)
        self._told = talk.told
        self.meter.clear()
        self._pace.clear()
        try:
            await talk.run()
        except (TimeoutError, WebSocketDisconnect, ConnectionError, RuntimeError) as gone:
            log.info("a client went: %s", type(gone).__name__)
        except EdgekitError as error:
            await self._turn_away(socket, 1011, str(error))
        finally:
            self._gone += talk.told.dropped_in + talk.told.dropped_out
            self.sessions.append(talk.told)
            log.info("a session ended: %s", talk.told)

    def _stepped(self, timed: Timed[Reply | None]) -> None:
        told = self._told
        self.meter.take(timed.model, timed.wait)
        self.meter.dropped = self._gone + told.dropped_in + told.dropped_out
        self._pace.take(timed.model, self._frame)
        for viewer in self.viewers:
            viewer.state({"type": "progress", **self._progress()})

    async def _turn_away(self, socket: WebSocket, code: int, words: str) -> None:
        # Whoever went in the meantime is not to be told.
        with contextlib.suppress(Exception):
            await socket.send_bytes(protocol.error(words))
            await socket.close(code, words[:120])


@contextlib.contextmanager
def opened(
    bundles: Sequence[Path], runtime: str = AUTO, threads: int | None = None
) -> Iterator[TalkDemo]:
    """The demo of a dialogue, in one or several precisions.

    Raises:
        UsageError: a bundle holds no dialogue. UnsupportedError: it takes no sound.
        MissingBackendError: PyAV, or the runtime, is not here.
    """
    require_av()
    with Conversing(bundles, KINDS, runtime, threads, _open) as engine:
        yield TalkDemo(engine)


def _open(task: SpeechDialogue) -> None:
    task.conversation  # noqa: B018  opens the graphs
