"""A hub's endpoint, asked from an event loop: the model's answers, and how the devices are.

Whatever the hub sends is taken with bounds: a line, a document and an answer may have so many
characters, and a silence so many seconds.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from edgekit.errors import DeviceError, InputError, UsageError

from .web.serve import require_server

if TYPE_CHECKING:
    import httpx2

CONNECT: Final = 5.0  # seconds; also of silence where the hub has its answer at once
SILENCE: Final = 30.0  # seconds; a hub that is there says so every ten, even with no answer yet
LONGEST: Final = 1 << 20  # bytes of a line, or of a document
AT_ONCE: Final = 64  # connections


class BusyError(DeviceError):
    """The hub has as many requests as may wait."""


@dataclass(frozen=True)
class Piece:
    """Of an answer; the last one has a reason.

    Attributes:
        text: that is new. tokens: generated so far.
        reason: ``stop`` or ``length``; None: there is more.
    """

    text: str
    tokens: int
    reason: str | None


class HubClient:
    """A hub, by its address. Use as an asynchronous context manager.

    Args:
        url: ``http://HOST:PORT``, with or without the ``/v1`` of other programs. key: its API key.

    Raises:
        UsageError: it is no such address. MissingBackendError: the HTTP library is not here.
    """

    def __init__(self, url: str, key: str = "") -> None:
        require_server(("httpx2",))
        self.url = _base(url)
        self._headers = {"Accept-Encoding": "identity"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._client: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> HubClient:
        import httpx2

        self._client = httpx2.AsyncClient(
            base_url=self.url,
            headers=self._headers,
            limits=httpx2.Limits(max_connections=AT_ONCE),
            trust_env=False,  # the key is for this hub, not for a proxy on the way
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        client, self._client = self._client, None
        await client.aclose()

    async def cluster(self) -> dict[str, Any]:
        """How the devices are, as ``GET /cluster`` tells.

        Raises:
            DeviceError: the hub does not answer. InputError: it refuses, or answers nonsense.
        """
        async with self._asked("GET", "/cluster", None, CONNECT) as response:
            try:
                told = json.loads(await _whole(response))
            except (ValueError, RecursionError):
                told = None
        if not isinstance(told, dict):
            raise InputError("the hub answers nonsense", "no document about its devices")
        return told

    async def answer(self, body: Mapping[str, Any]) -> AsyncIterator[Piece]:
        """What the model says, as it comes; ending the iteration ends it at the hub, too.

        Args:
            body: of ``POST /v1/chat/completions``; that it is streamed is added.

        Raises:
            BusyError: too many requests wait. DeviceError: the hub, or a device, is gone.
            InputError: the hub refuses the request, or answers nonsense.
        """
        counted = {"stream": True, "stream_options": {"continuous_usage_stats": True}}
        tokens = 0
        async with (
            self._asked("POST", "/v1/chat/completions", {**body, **counted}) as response,
            contextlib.aclosing(_lines(response)) as lines,
        ):
            async for line in lines:
                if not line.startswith(b"data: "):
                    continue
                if line == b"data: [DONE]":
                    return
                piece = _piece(line[6:], tokens)
                tokens = piece.tokens
                yield piece
        raise DeviceError("the hub broke off", "its answer has no end")

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, path: str, body: Any, silence: float = SILENCE
    ) -> AsyncIterator[httpx2.Response]:
        import httpx2

        waits = httpx2.Timeout(CONNECT, read=silence)
        try:
            async with self._client.stream(method, path, json=body, timeout=waits) as response:
                if response.status_code != 200:
                    raise _refusal(response.status_code, await _whole(response))
                yield response
        except httpx2.TimeoutException as error:
            words = "nothing came for too long" if isinstance(error, httpx2.ReadTimeout) else ""
            raise DeviceError(
                "the hub does not answer", words or "it takes no connection"
            ) from None
        except httpx2.HTTPError as error:
            raise DeviceError("the hub does not answer", str(error).lower()) from error


def _base(url: str) -> str:
    given = url if "//" in url else f"http://{url}"
    try:
        parts = urlsplit(given)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    path = parts.path.rstrip("/") if known else ""
    if not known or parts.username or parts.query or path not in ("", "/v1"):
        raise UsageError(f"{url!r} is no address of a hub", "", "give http://HOST:PORT")
    return f"{parts.scheme}://{parts.netloc}"


async def _whole(response: httpx2.Response) -> bytes:
    data = bytearray()
    async for piece in response.aiter_raw():
        data += piece
        if len(data) > LONGEST:
            raise InputError("the hub answers nonsense", f"a document of more than {LONGEST} bytes")
    return bytes(data)


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    held = b""
    async with contextlib.aclosing(response.aiter_raw()) as pieces:
        async for piece in pieces:
            *lines, held = (held + piece).split(b"\n")
            for line in lines:
                yield line
            if len(held) > LONGEST:
                raise InputError("the hub answers nonsense", f"a line of more than {LONGEST} bytes")


def _piece(data: bytes, before: int) -> Piece:
    """A server-sent event of the answer.

    Raises:
        DeviceError: it says that there is no more. InputError: it makes no sense.
    """
    try:
        told = json.loads(data)
        if "error" in told:
            raise DeviceError("the hub could not answer", str(told["error"]["message"])[:400])
        (choice,) = told["choices"]
        text = choice["delta"].get("content") or ""
        # Other servers of this protocol do not count: a piece is taken for a token.
        counted = (told.get("usage") or {}).get("completion_tokens", before + bool(text))
        reason = choice["finish_reason"]
        if not isinstance(text, str) or not isinstance(counted, int) or counted < before:
            raise ValueError(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError("the hub answers nonsense", f"{data[:80]!r}") from error
    return Piece(text, counted, None if reason is None else str(reason)[:20])


def _refusal(status: int, data: bytes) -> DeviceError | InputError:
    try:
        words = str(json.loads(data)["error"]["message"])[:400]
    except (ValueError, KeyError, TypeError, RecursionError):
        words = data[:200].decode("utf-8", "replace")
    if status == 503 and b"overloaded" in data:
        return BusyError("the hub is busy", words)
    if status in (401, 403):
        return InputError("the hub refuses", words, "give its key: --api-key")
    kind = InputError if 400 <= status < 500 else DeviceError
    return kind("the hub refuses", words)
