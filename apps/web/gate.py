"""Who may connect: whoever has the token, from a page that this server gave.

The token is the first part of every path, ``http://127.0.0.1:8990/TOKEN/``, so whatever a page
loads by a relative address, its WebSocket too, carries it. A page of another site that knows the
token is turned away all the same, by the Origin that browsers send.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# Everything a page needs comes from here; its pictures and sounds it may make itself.
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: mediastream:; "
        "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_SAFE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


def make_token(given: str | None = None) -> str:
    """The token: ``given``, or 128 random bits.

    Raises:
        UsageError: the one given is shorter than 8, or not of letters and digits.
    """
    if given is None:
        return secrets.token_urlsafe(16)
    if len(given) < 8 or not set(given) <= _SAFE:
        raise UsageError(
            "the token cannot be part of an address, or is too easy to guess",
            "8 and more of letters, digits and - _ . ~ make one",
            "leave --token out: one is made",
        )
    return given


class Gate:
    """An ASGI application in front of another: what it lets through has the token's part of
    the path taken off (as ``root_path``).

    Args:
        inner: the application. token: of :func:`make_token`.
        origins: other sites, as browsers write them (``https://example.org``), whose pages
            may connect too.
    """

    def __init__(self, inner: ASGIApp, token: str, origins: Iterable[str] = ()) -> None:
        self._inner, self._token = inner, token
        self._origins = frozenset(origin.rstrip("/") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what may be served, answer 403 to the rest."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(refusal, scope, receive, send)
            return

        async def with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), text.encode()) for name, text in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        prefix = f"{scope.get('root_path', '')}/{self._token}"
        await self._inner({**scope, "root_path": prefix}, receive, with_headers)

    def _refusal(self, scope: Scope) -> str | None:
        given = scope["path"].lstrip("/").partition("/")[0]
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return "no token: open the address that edgekit printed"
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get(b"origin")
        if origin is None or origin in self._origins:
            return None
        if urlsplit(origin).netloc != headers.get(b"host") or not urlsplit(origin).netloc:
            return f"a page of {origin} may not connect: start with --origin to let it"
        return None


async def _refuse(words: str, scope: Scope, receive: Receive, send: Send) -> None:
    from starlette.responses import PlainTextResponse

    if scope["type"] == "http":
        await PlainTextResponse(words + "\n", 403)(scope, receive, send)
        return
    await receive()  # the request to connect; closing before accepting answers it with 403
    await send({"type": "websocket.close", "code": 1008, "reason": words[:120]})
