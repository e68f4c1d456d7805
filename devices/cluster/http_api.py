"""An endpoint for programs that speak OpenAI's protocol, on the hub.

``/v1/models``, ``/v1/chat/completions`` and ``/v1/completions``, streaming and not; ``/cluster``
tells how the nodes are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgekit.errors import DeviceError, EdgekitError, InputError, MissingBackendError, UsageError

from .http_requests import Body, ChatBody, TextBody, parse
from .identity import INSTALL
from .service import Job, QueueFullError, Said, Service, describe_counts
from .tokens import Tokens

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LARGEST: Final = 4 << 20  # bytes of a request's body
ALIVE: Final = 10.0  # seconds of silence after which a stream says that it is there
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1", "[::1]")


@dataclass(frozen=True)
class Endpoint:
    """What is served.

    Attributes:
        service: answers. tokens: the model's. model: its name. end: ids that end an answer.
        context: tokens that fit, prompt and answer. told: gives the cluster's state.
        key: what a client must show as its bearer token; empty for nothing.
        hosts: names under which a browser may ask; ``*`` for any.
    """

    service: Service
    tokens: Tokens
    model: str
    end: Sequence[int]
    context: int
    told: Callable[[], dict[str, Any]]
    key: str = ""
    hosts: Sequence[str] = LOOPBACK
    started: int = field(default_factory=lambda: int(time.time()))


class Refused(Exception):
    """A request that is answered with an error document."""

    def __init__(self, status: int, kind: str, message: str, code: str | None = None) -> None:
        self.status, self.kind, self.message, self.code = status, kind, message, code
        super().__init__(message)

    @property
    def document(self) -> dict[str, Any]:
        """As OpenAI's clients expect it."""
        about = {"message": self.message, "type": self.kind, "param": None, "code": self.code}
        return {"error": about}


def refusal(error: EdgekitError) -> Refused:
    """An error of ours as an answer."""
    if isinstance(error, QueueFullError):
        return Refused(503, "server_error", str(error), "overloaded")
    if isinstance(error, InputError | UsageError):
        return Refused(400, "invalid_request_error", str(error))
    return Refused(503 if isinstance(error, DeviceError) else 500, "server_error", str(error))


def application(endpoint: Endpoint) -> Starlette:
    """For any ASGI server.

    Raises:
        MissingBackendError: Starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.routing import Route
    except ImportError as error:
        raise MissingBackendError("Starlette is not here", str(error), INSTALL) from error
    handlers = _Handlers(endpoint)
    routes = [
        Route("/v1/models", handlers.models),
        Route("/v1/models/{name:path}", handlers.model),
        Route("/v1/chat/completions", handlers.chat, methods=["POST"]),
        Route("/v1/completions", handlers.text, methods=["POST"]),
        Route("/cluster", handlers.cluster),
        Route("/health", handlers.health),
    ]
    return Starlette(
        routes=routes,
        # A page from elsewhere can make a browser ask under a name of its own that leads here.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*endpoint.hosts])],
        exception_handlers={
            Refused: lambda request, error: _answer(error),
            EdgekitError: lambda request, error: _answer(refusal(error)),
            HTTPException: lambda request, error: _answer(
                Refused(error.status_code, "invalid_request_error", str(error.detail).lower())
            ),
        },
    )


def _answer(refused: Refused) -> Response:
    from starlette.responses import JSONResponse

    headers = {"Retry-After": "5"} if refused.status == 503 else {}
    return JSONResponse(refused.document, refused.status, headers)


class _Handlers:
    """The routes of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def models(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._about()]})

    async def model(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        self._check_key(request)
        self._check_model(request.path_params["name"])
        return JSONResponse(self._about())

    async def health(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        complete = self._endpoint.told()["complete"]
        return JSONResponse({"complete": complete}, 200 if complete else 503)

    async def cluster(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        self._check_key(request)
        told = self._endpoint.told() | {"model": self._endpoint.model}
        return JSONResponse(told | {"requests": describe_counts(self._endpoint.service)})

    async def chat(self, request: Request) -> Response:
        body = parse(ChatBody, await self._read(request))
        return await self._complete(request, body, ChatShape(self._endpoint.model))

    async def text(self, request: Request) -> Response:
        body = parse(TextBody, await self._read(request))
        return await self._complete(request, body, TextShape(self._endpoint.model))

    def _about(self) -> dict[str, Any]:
        endpoint = self._endpoint
        about = {"id": endpoint.model, "object": "model", "created": endpoint.started}
        return about | {"owned_by": "edgekit"}

    def _check_key(self, request: Request) -> None:
        due = f"Bearer {self._endpoint.key}".encode()
        shown = request.headers.get("authorization", "").encode()
        if self._endpoint.key and not hmac.compare_digest(due, shown):
            raise Refused(401, "authentication_error", "the API key is missing or wrong")

    def _check_model(self, name: str) -> None:
        if name != self._endpoint.model:
            words = f"there is no model {name[:80]!r}, but {self._endpoint.model!r}"
            raise Refused(404, "invalid_request_error", words, "model_not_found")

    async def _read(self, request: Request) -> bytes:
        self._check_key(request)
        # A page from elsewhere may send anything but JSON without asking first.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise Refused(415, "invalid_request_error", "the body must be application/json")
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > LARGEST:
                raise Refused(413, "invalid_request_error", f"more than {LARGEST} bytes")
        return bytes(data)

    async def _complete(self, request: Request, body: Body, shape: Shape) -> Response:
        from starlette.responses import JSONResponse, StreamingResponse

        endpoint = self._endpoint
        self._check_model(body.model)
        asked = body.request(endpoint.tokens, endpoint.end, endpoint.context)
        pieces: asyncio.Queue[Said] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(said: Said) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(pieces.put_nowait, said)

        job = endpoint.service.submit(asked, tell)
        shape.prompt, shape.counting = len(asked.ids), body.with_counts
        if body.stream:
            events = _events(job, pieces, shape, body.with_usage)
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        return JSONResponse(await _whole(request, job, pieces, shape))


async def _whole(
    request: Request, job: Job, pieces: asyncio.Queue[Said], shape: Shape
) -> dict[str, Any]:
    """The answer in one document, unless the client goes."""
    gone = asyncio.create_task(_gone(request))
    text = ""
    try:
        while True:
            getting = asyncio.create_task(pieces.get())
            await asyncio.wait({getting, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                raise Refused(499, "invalid_request_error", "the client went")
            said = getting.result()
            if said.error is not None:
                raise refusal(said.error)
            text += said.text
            if said.reason:
                return shape.whole(text, said)
    finally:
        gone.cancel()
        job.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(
    job: Job, pieces: asyncio.Queue[Said], shape: Shape, usage: bool
) -> AsyncIterator[str]:
    """Server-sent events; when the client goes, this is cancelled, and the job with it."""
    try:
        for first in shape.opening():
            yield _event(first)
        while True:
            try:
                said = await asyncio.wait_for(pieces.get(), ALIVE)
            except TimeoutError:
                yield ": waiting\n\n"
                continue
            if said.error is not None:
                yield _event(refusal(said.error).document)
                break
            if said.text or said.reason:
                yield _event(shape.piece(said))
            if said.reason:
                if usage:
                    yield _event(shape.tail(said))
                break
        yield "data: [DONE]\n\n"
    finally:
        job.cancel()


def _event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


class Shape:
    """How answers of one kind look.

    Attributes:
        prompt: tokens of the prompt. counting: whether pieces tell how many tokens there are.
    """

    prefix, name, chunk = "", "", ""

    def __init__(self, model: str) -> None:
        self.prompt, self.counting = 0, False
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._common = {"id": self._id, "created": int(time.time()), "model": model}

    def opening(self) -> list[dict[str, Any]]:
        """What a stream begins with."""
        return []

    def whole(self, text: str, said: Said) -> dict[str, Any]:
        """The answer in one."""
        choice = {"index": 0, "finish_reason": said.reason, "logprobs": None} | self._full(text)
        return self._common | {
            "object": self.name,
            "choices": [choice],
            "usage": self._usage(said),
        }

    def piece(self, said: Said) -> dict[str, Any]:
        """A piece of a stream."""
        choice = {"index": 0, "finish_reason": said.reason, "logprobs": None}
        piece = self._chunked([choice | self._partial(said)])
        return piece | {"usage": self._usage(said)} if self.counting else piece

    def tail(self, said: Said) -> dict[str, Any]:
        """The numbers of tokens, after a stream's last piece."""
        return self._chunked([]) | {"usage": self._usage(said)}

    def _chunked(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._common | {"object": self.chunk, "choices": choices}

    def _usage(self, said: Said) -> dict[str, int]:
        total = self.prompt + said.tokens
        counts = {"prompt_tokens": self.prompt, "completion_tokens": said.tokens}
        return counts | {"total_tokens": total}

    def _full(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _partial(self, said: Said) -> dict[str, Any]:
        return {"text": said.text}


class TextShape(Shape):
    """``/v1/completions``."""

    prefix, name, chunk = "cmpl", "text_completion", "text_completion"


class ChatShape(Shape):
    """``/v1/chat/completions``."""

    prefix, name, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self) -> list[dict[str, Any]]:
        """The role comes first, and alone."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunked([{"index": 0, "delta": delta, "finish_reason": None}])]

    def _full(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def _partial(self, said: Said) -> dict[str, Any]:
        return {"delta": {"content": said.text} if said.text else {}}


def configured(endpoint: Endpoint, host: str, port: int) -> Any:
    """A ``uvicorn.Server`` that is ready to run.

    Raises:
        UsageError: it would be open to the network without a key.
        MissingBackendError: uvicorn is not installed.
    """
    if host not in LOOPBACK and not endpoint.key:
        raise UsageError(
            f"anybody on the network could use the endpoint at {host}",
            "it has no key",
            "give --api-key, or serve at 127.0.0.1",
        )
    try:
        import uvicorn
    except ImportError as error:
        raise MissingBackendError("uvicorn is not here", str(error), INSTALL) from error
    config = uvicorn.Config(
        application(endpoint),
        host=host,
        port=port,
        log_level="warning",
        timeout_keep_alive=10,
        limit_concurrency=128,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    # It would end the process by the signal that ended it, before the workers are sent home.
    server.capture_signals = contextlib.nullcontext
    return server
