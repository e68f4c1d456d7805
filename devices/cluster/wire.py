"""Frames on a connection: a fixed header, then content whose size is known before it is read.

A frame is one ``send``. Nothing that arrives is interpreted beyond its header, JSON objects and
plain arrays; a size is held against a limit before anything is allocated; and no wait is without
an end. All integers are big-endian, arrays little-endian.

===========  =====  ===============================================================
field        bytes  meaning
===========  =====  ===============================================================
magic            4  ``EKCL``
version          2  of this protocol
kind             1  :class:`Kind`
dtype            1  :class:`DType`; 0 where the content is no array
exponent         1  an array of halves is to be multiplied by 2 to this power (signed)
dimensions       1  of the shape, at most 4
reserved         2  zero
epoch            4  counts the times that the cluster was formed
step             4  counts the forward passes within an epoch
sequence         4  counts the collective operations within a step
length           4  bytes of content
shape         4x4  unused sizes are zero
===========  =====  ===============================================================
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np

from edgekit.errors import DeviceError

MAGIC: Final = b"EKCL"
VERSION: Final = 1
HEADER: Final = struct.Struct("!4sHBBbBHIIII4I")
DIMENSIONS: Final = 4
STRANGER_LIMIT: Final = 8 << 10  # bytes of a frame from whom nobody knows yet
MESSAGE_LIMIT: Final = 256 << 10
PIECE_LIMIT: Final = 1 << 20
ARRAY_LIMIT: Final = 64 << 20


class Kind(IntEnum):
    """What a frame's content is."""

    MESSAGE = 1  # a JSON object
    ARRAY = 2
    PIECE = 3  # bytes of a file
    ECHO = 4  # bytes that are to be sent back


class DType(IntEnum):
    """How an array's elements are written."""

    NONE = 0
    FLOAT32 = 1
    FLOAT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    FLOAT64 = 6
    BOOL = 7
    INT8 = 8


_NUMPY: Final = {
    DType.FLOAT32: np.dtype("<f4"),
    DType.FLOAT16: np.dtype("<f2"),
    DType.INT32: np.dtype("<i4"),
    DType.INT64: np.dtype("<i8"),
    DType.UINT8: np.dtype("u1"),
    DType.FLOAT64: np.dtype("<f8"),
    DType.BOOL: np.dtype("?"),
    DType.INT8: np.dtype("i1"),
}
DTYPES: Final = {dtype: code for code, dtype in _NUMPY.items()}
_LIMITS: Final = {
    Kind.MESSAGE: MESSAGE_LIMIT,
    Kind.ARRAY: ARRAY_LIMIT,
    Kind.PIECE: PIECE_LIMIT,
    Kind.ECHO: PIECE_LIMIT,
}


class PeerLost(DeviceError):
    """A connection broke or was silent for too long.

    Args:
        peer: who was at its other end.
        reason: what was seen.
    """

    def __init__(self, peer: str, reason: str, next_step: str = "") -> None:
        self.peer, self.reason = peer, reason
        super().__init__(f"{peer} is lost", reason, next_step)

    def __reduce__(self) -> tuple:
        return type(self), (self.peer, self.reason, self.next_step)


class ProtocolError(DeviceError):
    """Somebody sent what is no frame, or not the one that belongs here."""


@dataclass(frozen=True)
class Header:
    """What precedes a frame's content; fields as in the module's table."""

    kind: Kind
    length: int
    dtype: DType = DType.NONE
    exponent: int = 0
    shape: tuple[int, ...] = ()
    epoch: int = 0
    step: int = 0
    sequence: int = 0

    def pack_into(self, buffer: bytearray) -> None:
        """Write it at the buffer's beginning."""
        sizes = (*self.shape, *([0] * (DIMENSIONS - len(self.shape))))
        HEADER.pack_into(
            *(buffer, 0, MAGIC, VERSION, self.kind, self.dtype, self.exponent, len(self.shape)),
            *(0, self.epoch, self.step, self.sequence, self.length, *sizes),
        )

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview, limit: int | None = None) -> Header:
        """Read and judge one.

        Args:
            data: at least as long as a header.
            limit: bytes of content that are taken at most, whatever the kind.

        Raises:
            ProtocolError: it is none, of another version, too large or contradicts itself.
        """
        magic, version, kind, dtype, exponent, dimensions, reserved, *rest = HEADER.unpack_from(
            data
        )
        epoch, step, sequence, length, *sizes = rest
        if magic != MAGIC:
            raise ProtocolError("what arrived is no frame", "it does not begin with EKCL")
        if version != VERSION:
            raise ProtocolError(
                f"a frame of protocol version {version}",
                f"this is version {VERSION}",
                "install the same edgekit on every device",
            )
        known = kind in _LIMITS and dtype in iter(DType)
        if not known or reserved or dimensions > DIMENSIONS or any(sizes[dimensions:]):
            raise ProtocolError("a frame's header makes no sense")
        largest = min(_LIMITS[Kind(kind)], _LIMITS[Kind(kind)] if limit is None else limit)
        if length > largest:
            raise ProtocolError(f"a frame claims {length} bytes", f"{largest} are the most here")
        shape = tuple(sizes[:dimensions])
        found = cls(Kind(kind), length, DType(dtype), exponent, shape, epoch, step, sequence)
        found._check_array()
        return found

    def _check_array(self) -> None:
        if self.kind != Kind.ARRAY:
            if self.dtype or self.shape or self.exponent:
                raise ProtocolError("a frame's header makes no sense", "only arrays have a shape")
        elif not self.dtype or math.prod(self.shape) * _NUMPY[self.dtype].itemsize != self.length:
            raise ProtocolError("a frame's shape and length contradict each other")


@dataclass
class Traffic:
    """What one end of a connection counted.

    Attributes:
        sent, received: bytes with headers. waited: seconds in which it waited for the peer.
    """

    sent: int = 0
    received: int = 0
    waited: float = 0.0


class Channel:
    """Frames over a connected socket, plain or TLS; used by one thread at a time.

    Args:
        connection: connected; the channel closes it.
        peer: how the other end is called in errors.
        limit: bytes of a frame that are taken at most; None for what the kinds allow.

    Attributes:
        until: when everything on this channel must be over, on ``time.monotonic``'s clock; None
            for no end. What is waited for may have a nearer one.
        traffic: what was counted.
        host: the other end's address, as it was seen here; empty if it was gone at once.
    """

    def __init__(self, connection: socket.socket, peer: str, limit: int | None = None) -> None:
        self.peer, self.limit, self.traffic = peer, limit, Traffic()
        self._socket = connection
        self._out, self._in = bytearray(HEADER.size), bytearray(HEADER.size)
        self._head = bytearray(HEADER.size)
        self._broken = False
        self.until: float | None = None
        self.host = _host(connection)
        with contextlib.suppress(OSError):  # not a TCP socket: nothing delays there
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def certificate(self) -> bytes | None:
        """The certificate (DER) that the other end showed; None without TLS, or from a stranger."""
        secured = isinstance(self._socket, ssl.SSLSocket)
        return (self._socket.getpeercert(binary_form=True) or None) if secured else None

    @property
    def closed(self) -> bool:
        """Whether it was closed here, or broke."""
        return self._broken

    def close(self) -> None:
        """Close the connection; may be called again, and from another thread to end a wait."""
        self._broken = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._socket.close()

    def reserve(self, size: int) -> None:
        """Make room for content of ``size`` bytes now rather than when it first comes."""
        if len(self._in) < size:
            self._in = bytearray(size)
        if len(self._out) < HEADER.size + size:
            self._out = bytearray(HEADER.size + size)

    def send(self, header: Header, content: Any, seconds: float) -> None:
        """Send one frame.

        Args:
            content: bytes or anything with a contiguous buffer, of ``header.length`` bytes.

        Raises:
            PeerLost: the connection broke, or took nothing for so many seconds.
        """
        end = HEADER.size + header.length
        if len(self._out) < end:
            self._out = bytearray(end)
        header.pack_into(self._out)
        view = memoryview(self._out)
        view[HEADER.size : end] = memoryview(content).cast("B")
        # The whole in one call: a header of its own would wait for the acknowledgement of what
        # went before (Nagle), and would be a TLS record of its own.
        try:
            self._socket.settimeout(max(self._end(seconds) - time.monotonic(), 1e-3))
            self._socket.sendall(view[:end])
        except (OSError, ValueError) as error:
            raise self._lost(error, seconds) from error
        self.traffic.sent += end

    def receive(self, seconds: float) -> tuple[Header, memoryview]:
        """The next frame; its content is valid until the next call.

        Args:
            seconds: until the whole of it must be there.

        Raises:
            PeerLost: the connection broke or ended, or the time is over.
            ProtocolError: it is no frame, or larger than allowed.
        """
        began = time.monotonic()
        until = self._end(seconds)
        self._fill(memoryview(self._head), until, seconds)
        try:
            header = Header.parse(self._head, self.limit)
        except ProtocolError:
            self._broken = True
            raise
        if len(self._in) < header.length:
            self._in = bytearray(header.length)
        content = memoryview(self._in)[: header.length]
        self._fill(content, until, seconds)
        self.traffic.received += HEADER.size + header.length
        self.traffic.waited += time.monotonic() - began
        return header, content

    def _end(self, seconds: float) -> float:
        end = time.monotonic() + seconds
        return end if self.until is None else min(end, self.until)

    def _fill(self, view: memoryview, until: float, seconds: float) -> None:
        got = 0
        while got < len(view):
            left = until - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
                count = self._socket.recv_into(view[got:])
            except (OSError, ValueError) as error:
                raise self._lost(error, seconds) from error
            if not count:
                raise self._lost(ConnectionError("it closed the connection"), seconds)
            got += count

    def _lost(self, error: Exception, seconds: float) -> PeerLost:
        self._broken = True
        if isinstance(error, TimeoutError):
            return PeerLost(self.peer, f"silent for {seconds:.1f} s")
        return PeerLost(self.peer, _words(error))

    def send_message(self, kind: str, seconds: float, /, **fields: Any) -> None:
        """Send a JSON object whose ``type`` is ``kind``."""
        data = json.dumps({"type": kind, **fields}).encode()
        self.send(Header(Kind.MESSAGE, len(data)), data, seconds)

    def receive_message(self, seconds: float, *expected: str) -> dict[str, Any]:
        """The next frame, which must be a message.

        Args:
            expected: the types that it may be of; none for any.

        Raises:
            ProtocolError: it is something else. A message of type ``refused`` raises
                :class:`~edgekit.errors.DeviceError` with the peer's words.
        """
        header, content = self.receive(seconds)
        return expect(header, content, self.peer, *expected)


def expect(header: Header, content: memoryview, peer: str, *expected: str) -> dict[str, Any]:
    """A frame as a message of one of these types; see :meth:`Channel.receive_message`."""
    if header.kind != Kind.MESSAGE:
        raise ProtocolError(f"{peer} sent {header.kind.name.lower()}", "a message is due")
    try:
        found = json.loads(bytes(content))
        kind = found["type"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ProtocolError(f"{peer} sent a message that is none", type(error).__name__) from None
    if kind == "refused" and kind not in expected:
        raise DeviceError(f"{peer} refused", str(found.get("why", ""))[:300])
    if expected and kind not in expected:
        raise ProtocolError(f"{peer} sent {str(kind)[:40]!r}", f"{' or '.join(expected)} is due")
    return found


def array_type(values: np.ndarray) -> DType:
    """How an array's elements are written.

    Raises:
        ProtocolError: there is no way to write them.
    """
    code = DTYPES.get(values.dtype)
    if code is None:
        raise ProtocolError(f"an array of {values.dtype} cannot be sent")
    return code


def array_of(header: Header, content: memoryview) -> np.ndarray:
    """A frame's content as an array over the channel's buffer, halves not yet scaled."""
    return np.frombuffer(content, _NUMPY[header.dtype]).reshape(header.shape)


def _host(connection: socket.socket) -> str:
    try:
        return str(connection.getpeername()[0])
    except (OSError, IndexError):
        return ""


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "it closed the connection"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or type(error).__name__).lower().replace('_', ' ')}"
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return words[:1].lower() + words[1:]
