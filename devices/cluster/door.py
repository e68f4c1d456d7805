"""Where a device listens: known devices are let in, one with a join code is introduced.

Whoever is not known yet has little: a few connections at once, a few seconds in all, a few
kilobytes. Everything else is refused and closed, and leaves one line in the log.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from edgekit.errors import DeviceError, EdgekitError

from .identity import Identity, Pinned, Pins, fingerprint
from .join_code import JoinCode, JoinCodes, proof
from .secure import call_as_stranger, handshake, server_context
from .wire import STRANGER_LIMIT, Channel, PeerLost, ProtocolError

STRANGERS: Final = 32  # connections in all that have not said yet who they are
PER_ADDRESS: Final = 8
SECONDS: Final = 6.0  # until a caller must be known
QUIET: Final = 10.0  # seconds between lines about refusals
NAME_LENGTH: Final = 40

log = logging.getLogger("edgekit.cluster")
Trusted = Callable[[], Mapping[str, Pinned]]
Admit = Callable[[Channel, str, str], None]
Introduce = Callable[[Channel], None]


class Refusals:
    """One line about callers that were refused; a flood of them makes one line, too.

    Attributes:
        count: of all that were refused.
    """

    def __init__(self) -> None:
        self.count, self._untold = 0, 0
        self._last, self._lock = -QUIET, threading.Lock()

    def note(self, address: str, why: str) -> None:
        """Somebody was refused."""
        with self._lock:
            self.count += 1
            self._untold += 1
            if time.monotonic() - self._last < QUIET:
                return
            before = f" (and {self._untold - 1} before)" if self._untold > 1 else ""
            self._last, self._untold = time.monotonic(), 0
        log.warning("refused %s: %s%s", address, " ".join(why.split())[:200], before)


class Door:
    """A listening socket, and who may come in.

    Args:
        identity: this device's.
        trusted: gives the devices that are known now, by fingerprint.
        admit: takes over the channel of a known device, with its name and fingerprint, in a thread
            of its own.
        introduce: talks with a stranger (:class:`Introducer`); None lets in nobody new.
        address: where to listen; port 0 takes a free one.

    Raises:
        DeviceError: the address is taken.
    """

    def __init__(
        self,
        identity: Identity,
        trusted: Trusted,
        admit: Admit,
        introduce: Introduce | None = None,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self._identity, self._trusted, self._admit = identity, trusted, admit
        self._introduce = introduce
        self.refusals = Refusals()
        self._context: tuple[frozenset[str], ssl.SSLContext] | None = None
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()
        try:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            self._socket = socket.create_server(address, family=family, backlog=64)
        except OSError as error:
            raise DeviceError(
                f"cannot listen at {address[0]}:{address[1]}",
                error.strerror or str(error),
                "give --port",
            ) from error
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        threading.Thread(target=self._accept, name="door", daemon=True).start()

    def close(self) -> None:
        """Listen no longer; who is in stays."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, (host, port, *_) = self._socket.accept()
            except OSError:
                if self._socket.fileno() < 0:
                    return
                time.sleep(0.05)  # out of descriptors: some will be closed in a moment
                continue
            with self._lock:
                crowded = self._waiting.total() >= STRANGERS or self._waiting[host] >= PER_ADDRESS
                self._waiting[host] += not crowded
            if crowded:
                plain.close()
                self.refusals.note(f"{host}:{port}", "too many callers at once")
                continue
            threading.Thread(target=self._meet, args=(plain, host, port), daemon=True).start()

    def _meet(self, plain: socket.socket, host: str, port: int) -> None:
        """From an accepted socket to a known device, or to none."""
        met = None
        try:
            met = self._identify(plain, time.monotonic() + SECONDS)
        except (EdgekitError, OSError) as error:
            self.refusals.note(f"{host}:{port}", _reason(error))
            plain.close()
        finally:
            with self._lock:
                self._waiting[host] -= 1
        if met is not None:
            self._admit(*met)

    def _identify(self, plain: socket.socket, until: float) -> tuple[Channel, str, str] | None:
        trusted = self._trusted()
        secured = handshake(plain, self._context_for(trusted), until, server=True)
        der = secured.getpeercert(binary_form=True)
        if not der:
            self._meet_stranger(secured, until)
            return None
        key = fingerprint(der).hex()
        if key not in trusted:
            secured.close()
            raise DeviceError("a certificate that nobody pinned")
        return Channel(secured, trusted[key].name), trusted[key].name, key

    def _meet_stranger(self, secured: ssl.SSLSocket, until: float) -> None:
        channel = Channel(secured, "a stranger", STRANGER_LIMIT)
        try:
            if self._introduce is None:
                raise DeviceError("a caller without a certificate")
            channel.until = until
            self._introduce(channel)
        except PeerLost:
            raise
        except EdgekitError as error:
            with contextlib.suppress(EdgekitError):
                channel.send_message("refused", 1.0, why=str(error))
            raise
        finally:
            channel.close()

    def _context_for(self, trusted: Mapping[str, Pinned]) -> ssl.SSLContext:
        keys = frozenset(trusted)
        if self._context is None or self._context[0] != keys:
            made = server_context(self._identity, [pinned.der for pinned in trusted.values()])
            self._context = (keys, made)
        return self._context[1]


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, PeerLost) else str(error) or type(error).__name__


class Introducer:
    """The hub's side of an introduction.

    Args:
        identity: the hub's. codes: those that it issued. pins: where the device is entered.
    """

    def __init__(self, identity: Identity, codes: JoinCodes, pins: Pins) -> None:
        self._identity, self._codes, self._pins = identity, codes, pins

    def __call__(self, channel: Channel) -> None:
        """Challenge a stranger, check its proof, pin its certificate.

        Raises:
            DeviceError: it knows no code that is open.
        """
        nonce = secrets.token_bytes(32)
        channel.send_message("challenge", SECONDS, nonce=nonce.hex())
        said = channel.receive_message(SECONDS, "join")
        try:
            der = ssl.PEM_cert_to_DER_cert(str(said["certificate"]))
            shown, wanted = bytes.fromhex(said["proof"]), str(said["name"])
        except (KeyError, ValueError, TypeError) as error:
            raise ProtocolError("a request to join that makes no sense") from error
        answer = self._codes.redeem(nonce, fingerprint(der), shown)
        name = self._free_name(wanted, fingerprint(der).hex())
        self._pins.add(name, der)
        log.info("%s joined", name)
        channel.send_message("welcome", SECONDS, proof=answer.hex(), name=name)

    def _free_name(self, wanted: str, key: str) -> str:
        kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in wanted)[:NAME_LENGTH]
        others = {pin.name for found, pin in self._pins.all().items() if found != key}
        names = [kept or "device", *(f"{kept or 'device'}-{i}" for i in range(2, 1000))]
        return next(name for name in names if name not in others)


def join(
    address: tuple[str, int], code: JoinCode, identity: Identity, seconds: float = SECONDS
) -> bytes:
    """The device's side: introduce it to a hub.

    Returns:
        The hub's certificate (DER), to be pinned.

    Raises:
        DeviceError: it is not the hub of the code, or the hub refuses the code.
        PeerLost: nobody is there.
    """
    channel = call_as_stranger(address, code.hub, seconds)
    try:
        hub = channel.certificate or b""
        said = channel.receive_message(seconds, "challenge")
        nonce = bytes.fromhex(str(said.get("nonce", "")))
        ours = (nonce, fingerprint(hub), identity.fingerprint)
        shown = proof(code.secret, "device", *ours).hex()
        channel.send_message(
            "join", seconds, name=identity.name, certificate=identity.pem, proof=shown
        )
        answer = channel.receive_message(seconds, "welcome")
        due = proof(code.secret, "hub", *ours).hex()
        if not secrets.compare_digest(due.encode(), str(answer.get("proof", "")).encode()):
            raise DeviceError("the hub does not know the join code that it took")
        return hub
    except ValueError as error:
        raise ProtocolError("the hub's challenge makes no sense") from error
    finally:
        channel.close()
