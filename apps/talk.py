"""A server that Moshi's web client talks to: one conversation at a time, over a WebSocket.

Sound that cannot be kept up with is dropped, the oldest first: what waits to be heard, and what
waits to be sent, is never more than 160 ms each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, InputError, MissingBackendError, UsageError

from ..runtimes import load, tasks
from ..runtimes.codec import Framer
from ..runtimes.conversation import Conversation, Reply
from ..runtimes.tasks.speech_dialogue import SpeechDialogue
from . import talk_protocol as protocol
from .ogg_opus import OpusDecoder, OpusEncoder, require_av
from .talk_protocol import Control, Kind

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.websockets import WebSocket

FRAMES: Final = 2  # of 80 ms, that may wait
SILENT: Final = 60.0  # seconds without a message after which a client is taken for gone
FAULTS: Final = 8  # messages that make no sense, after which it is sent away

log = logging.getLogger("edgekit.talk")
Item = TypeVar("Item")


class Newest(Generic[Item]):
    """A queue that keeps the newest ``size`` things; for one event loop.

    Attributes:
        dropped: how many were too old.
    """

    def __init__(self, size: int = FRAMES) -> None:
        self._held: deque[Item] = deque()
        self._size, self._there = size, asyncio.Event()
        self.dropped = 0

    def put(self, item: Item) -> None:
        """Add the newest; the oldest goes if there is no room."""
        if len(self._held) == self._size:
            self._held.popleft()
            self.dropped += 1
        self._held.append(item)
        self._there.set()

    def clear(self) -> None:
        """Forget all of them."""
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)

    async def get(self) -> Item:
        """The oldest that is kept, when there is one."""
        while not self._held:
            self._there.clear()
            await self._there.wait()
        return self._held.popleft()


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
    """One client's session."""

    def __init__(self, socket: WebSocket, conversation: Conversation) -> None:
        self._socket, self._conversation = socket, conversation
        self._loop = asyncio.get_running_loop()
        self._inbox: Newest[np.ndarray] = Newest()
        self._outbox: Newest[Reply] = Newest()
        self._framer = Framer(conversation.frame)
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
            # The model's call in its thread is waited for: the next client gets the same model.
            await asyncio.gather(*jobs, return_exceptions=True)
            if self._decoder is not None:
                await asyncio.to_thread(self._decoder.close)
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
            reply = await _in_thread(self._answer, frame)
            self.told.heard += 1
            if reply is not None:
                self._outbox.put(reply)

    def _answer(self, frame: np.ndarray) -> Reply | None:
        if not self._begun:
            self._begun = True
            self._conversation.begin(frame)
            return None
        return self._conversation.hear(frame)

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


async def _in_thread(call: Callable[[np.ndarray], Reply | None], frame: np.ndarray):
    """Run a call in a thread; if this is cancelled, first let the call end."""
    running = asyncio.ensure_future(asyncio.to_thread(call, frame))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await running
        raise


class Server:
    """The application around one conversation's graphs.

    Args:
        task: of a bundle with codec and language model.

    Attributes:
        sessions: what became of each, the last ones.
    """

    def __init__(self, task: SpeechDialogue) -> None:
        self._task, self._talking = task, False
        self.sessions: deque[Told] = deque(maxlen=16)
        task.conversation  # noqa: B018  opens the graphs: the first client need not wait

    @property
    def busy(self) -> bool:
        """Whether somebody is talking."""
        return self._talking

    def application(self) -> Starlette:
        """For any ASGI server."""
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route, WebSocketRoute

        def status(request: object) -> JSONResponse:
            return JSONResponse(
                {"model": self._task.bundle.manifest.model.name, "busy": self._talking}
            )

        return Starlette(
            routes=[Route("/api/status", status), WebSocketRoute(protocol.PATH, self._serve)]
        )

    async def _serve(self, socket: WebSocket) -> None:
        await socket.accept()
        if self._talking:
            await self._turn_away(
                socket, protocol.BUSY, "busy: somebody else is talking; try again later"
            )
            return
        self._talking = True
        try:
            await self._converse(socket)
        finally:
            self._talking = False

    async def _converse(self, socket: WebSocket) -> None:
        from starlette.websockets import WebSocketDisconnect

        try:
            self._task.conversation.dialogue.sampling = protocol.sampling(socket.query_params)
        except InputError as error:
            await self._turn_away(socket, protocol.REFUSED, str(error))
            return
        talk = Talk(socket, self._task.conversation)
        try:
            await talk.run()
        except (TimeoutError, WebSocketDisconnect, ConnectionError, RuntimeError) as gone:
            log.info("a client went: %s", type(gone).__name__)
        except EdgekitError as error:
            await self._turn_away(socket, 1011, str(error))
        finally:
            self.sessions.append(talk.told)
            log.info("a session ended: %s", talk.told)

    async def _turn_away(self, socket: WebSocket, code: int, words: str) -> None:
        # Whoever went in the meantime is not to be told.
        with contextlib.suppress(Exception):
            await socket.send_bytes(protocol.error(words))
            await socket.close(code, words[:120])


def require_server() -> Any:
    """uvicorn, with Starlette, websockets and PyAV beside it.

    Raises:
        MissingBackendError: one of them is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
        import websockets  # noqa: F401
    except ImportError as error:
        raise MissingBackendError(
            "the server's libraries are not here",
            str(error),
            'pip install "edgekit-toolkit[talk]"',
        ) from error
    require_av()
    return uvicorn


def configured(server: Server, host: str, port: int) -> Any:
    """A ``uvicorn.Server`` that is ready to run: messages limited, silent connections tried."""
    uvicorn = require_server()
    return uvicorn.Server(
        uvicorn.Config(
            server.application(),
            host=host,
            port=port,
            log_level="warning",
            ws_max_size=protocol.LARGEST,
            ws_ping_interval=10,
            ws_ping_timeout=10,
        )
    )


@contextlib.contextmanager
def opened(bundle: Path, runtime: str = "auto", threads: int | None = None) -> Iterator[Server]:
    """The server of a bundle.

    Raises:
        UsageError: the bundle holds no dialogue with sound.
        MissingBackendError: libraries, or the runtime, are not here.
    """
    require_server()
    with Bundle.open(bundle) as found, load(found, runtime, threads) as session:
        task = tasks.for_bundle(found, session)
        if not isinstance(task, SpeechDialogue):
            raise UsageError(
                f"{bundle} is no dialogue", f"its task is {task.kind}", "edgekit export moshi-7b"
            )
        yield Server(task)
