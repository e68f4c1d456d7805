"""TLS between devices that know each other's certificates, and nobody else's."""

from __future__ import annotations

import contextlib
import hmac
import select
import socket
import ssl
import time
from collections.abc import Iterable

from edgekit.errors import DeviceError

from .identity import Identity, fingerprint
from .wire import STRANGER_LIMIT, Channel, PeerLost


def server_context(identity: Identity, trusted: Iterable[bytes]) -> ssl.SSLContext:
    """For who listens: a caller shows one of these certificates, or none at all.

    Who shows none is a stranger, and may do no more than ask to be introduced. Who shows another
    certificate than these fails in the handshake.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity, trusted)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a session is not resumed: every connection proves its key
    return context


def client_context(identity: Identity, server: bytes) -> ssl.SSLContext:
    """For who calls: the other end must have exactly this certificate (DER)."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity, [server])


def stranger_context() -> ssl.SSLContext:
    """For who calls the first time. It shows nothing and checks nothing by itself: the caller
    must hold the certificate it meets against a fingerprint before it says anything."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, None, [])
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: int, identity: Identity | None, trusted: Iterable[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # addresses change at home; certificates are pinned instead
    # A pinned certificate is its own anchor, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    if texts := [ssl.DER_cert_to_PEM_cert(der) for der in trusted]:
        context.load_verify_locations(cadata="\n".join(texts))
    return context


def handshake(
    plain: socket.socket, context: ssl.SSLContext, until: float, *, server: bool
) -> ssl.SSLSocket:
    """TLS over a connected socket, done by a point in time however slowly bytes trickle in.

    Args:
        until: on :func:`time.monotonic`'s clock.

    Raises:
        PeerLost: the other end speaks no TLS, shows a wrong certificate, or is too slow.
    """
    name = _address(plain)
    wrapped: ssl.SSLSocket | None = None
    try:
        plain.setblocking(False)
        wrapped = context.wrap_socket(plain, server_side=server, do_handshake_on_connect=False)
        while True:
            try:
                wrapped.do_handshake()
                return wrapped
            except ssl.SSLWantReadError:
                waits = ([wrapped], [], [])
            except ssl.SSLWantWriteError:
                waits = ([], [wrapped], [])
            left = until - time.monotonic()
            if left <= 0 or not any(select.select(*waits, left)):
                raise TimeoutError("no TLS handshake in time")
    except (OSError, ValueError) as error:
        (wrapped or plain).close()
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise PeerLost(name, f"TLS: {str(reason).lower().replace('_', ' ')}") from error


def connect(host: str, port: int, seconds: float) -> socket.socket:
    """A plain connection.

    Raises:
        PeerLost: nobody is there.
    """
    try:
        return socket.create_connection((host, port), timeout=seconds)
    except OSError as error:
        words = error.strerror or str(error)
        raise PeerLost(f"{host}:{port}", words[:1].lower() + words[1:]) from error


def call(
    address: tuple[str, int], identity: Identity, server: bytes, peer: str, seconds: float
) -> Channel:
    """Connect to a device whose certificate (DER) is known, and prove to be ``identity``.

    Raises:
        PeerLost: nobody is there, or not that one.
    """
    until = time.monotonic() + seconds
    plain = connect(*address, seconds)
    secured = handshake(plain, client_context(identity, server), until, server=False)
    _check(secured, fingerprint(server), peer)
    return Channel(secured, peer)


def call_as_stranger(address: tuple[str, int], digest: bytes, seconds: float) -> Channel:
    """Connect to a device of which only the beginning of its fingerprint is known.

    Raises:
        DeviceError: it is not that one; nothing was said to it.
    """
    until = time.monotonic() + seconds
    plain = connect(*address, seconds)
    secured = handshake(plain, stranger_context(), until, server=False)
    _check(secured, digest, f"{address[0]}:{address[1]}")
    return Channel(secured, f"{address[0]}:{address[1]}", STRANGER_LIMIT)


def _check(secured: ssl.SSLSocket, digest: bytes, peer: str) -> None:
    found = fingerprint(secured.getpeercert(binary_form=True) or b"")
    if not hmac.compare_digest(found[: len(digest)], digest):
        secured.close()
        raise DeviceError(
            f"{peer} is not the device that it should be",
            "its certificate is another one",
            "check the address and the join code",
        )


def _address(connection: socket.socket) -> str:
    with contextlib.suppress(OSError):
        host, port, *_ = connection.getpeername()
        return f"{host}:{port}"
    return "a caller"
