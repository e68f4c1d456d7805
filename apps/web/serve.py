"""Listen at an address, with the gate in front."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit.errors import DeviceError, MissingBackendError

from .gate import Gate, make_token

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = logging.getLogger("edgekit.demo")
LARGEST: Final = 4 << 20  # bytes of a message: a JPEG of 4K fits


@dataclass(frozen=True)
class Address:
    """Where to listen, and who may connect.

    Attributes:
        host, port: 0 takes a free port. token: None makes one.
        origins: other sites whose pages may connect.
        certificate, key: PEM files; with them it is https.
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    origins: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None


@dataclass
class Listening:
    """A server that listens already and serves once :meth:`run` is called.

    Attributes:
        url: of the page, token included. server: ``uvicorn.Server``.
    """

    url: str
    server: Any
    _socket: socket.socket = field(repr=False)

    def run(self) -> None:
        """Serve until interrupted (Ctrl+C is how a demo ends, and no fault), or until
        ``server.should_exit`` is set."""
        try:
            self.server.run(sockets=[self._socket])
        except KeyboardInterrupt:
            log.debug("interrupted")
        finally:
            self.close()

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()


def listen(app: ASGIApp, address: Address, largest: int = LARGEST) -> Listening:
    """Bind, and put the gate in front of an application.

    Args:
        largest: bytes of a WebSocket message; a larger one ends its connection (code 1009).

    Raises:
        UsageError: the token is none. MissingBackendError: the server's libraries are not here.
        DeviceError: the address is taken or not of this machine, or the certificate is none.
    """
    uvicorn = require_server()
    token = make_token(address.token)
    bound = _bind(address)
    try:
        config = uvicorn.Config(
            Gate(app, token, address.origins),
            log_level="warning",
            access_log=False,  # addresses hold the token
            ws_max_size=largest,
            ws_max_queue=4,
            ws_ping_interval=10,
            ws_ping_timeout=10,
            # Pictures and sound are compressed already, or are wanted sooner than smaller.
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=2,
            ssl_certfile=address.certificate,
            ssl_keyfile=address.key,
        )
        config.load()
    except (OSError, ValueError) as error:
        bound.close()
        raise DeviceError(
            f"the certificate {address.certificate} cannot be used",
            getattr(error, "strerror", None) or str(error),
            "give --certificate and --key, each a PEM file",
        ) from error
    port = bound.getsockname()[1]
    scheme = "https" if address.certificate else "http"
    return Listening(
        f"{scheme}://{_shown(address.host)}:{port}/{token}/", uvicorn.Server(config), bound
    )


def require_server(packages: Iterable[str] = ("starlette", "websockets")) -> Any:
    """uvicorn, with Starlette and websockets beside it.

    Raises:
        MissingBackendError: one of them is not installed.
    """
    import importlib

    try:
        for package in packages:
            importlib.import_module(package)
        return importlib.import_module("uvicorn")
    except ImportError as error:
        raise MissingBackendError(
            "the demos' server is not here", str(error), 'pip install "edgekit-toolkit[web]"'
        ) from error


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A whole frame fits, so that a browser gives it away at once.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    try:
        bound.bind((address.host, address.port))
        bound.set_inheritable(True)
        bound.listen()  # whoever opens the address as soon as it is said waits, and is not refused
    except OSError as error:
        bound.close()
        raise DeviceError(
            f"cannot listen at {address.host}:{address.port}",
            error.strerror or str(error),
            "give another --port or --host",
        ) from error
    return bound


def _shown(host: str) -> str:
    """A host as others reach it: one that stands for all addresses by this machine's name."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 -- compared, not bound
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
