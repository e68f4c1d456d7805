"""Sums over all ranks by three algorithms, and rank 0's values for everybody.

Every algorithm adds in an order that the ranks' numbers fix, so that one cluster computes the same
bits each time, and leaves the same bits on every rank. With *n* ranks, *s* bytes and a link that
takes *l* seconds and *b* seconds a byte, each way:

==========  ==================  ==========================================
algorithm   hops                time
==========  ==================  ==========================================
star        2                   2 l + 2 (n - 1) s b (the hub's link)
doubling    log2 n (+ 2)        log2(n) (l + s b); two more unless n = 2^k
ring        2 (n - 1)           2 (n - 1) (l + s b / n)
==========  ==================  ==========================================

The star needs links to the hub alone, the others links among all (a mesh). With two ranks doubling
is one pairwise exchange. Rabenseifner and Thakur describe the last two: Thakur et al.,
"Optimization of Collective Communication Operations in MPICH", 2005.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from edgekit.errors import DeviceError

from .wire import Channel, DType, Header, Kind, ProtocolError, array_of, array_type, expect

PIECE: Final = 128 << 10  # bytes under way in each direction when two ranks send at once
HALF_EXPONENT: Final = 15  # halves reach 2^16
ALGORITHMS: Final = ("star", "doubling", "ring")


class Interrupted(DeviceError):
    """A peer sent a message where an array was due: the operation is not going to be finished.

    Attributes:
        peer: who sent it.
        message: what it said.
    """

    def __init__(self, peer: str, message: Mapping[str, Any]) -> None:
        self.peer, self.message = peer, dict(message)
        super().__init__(
            f"{peer} broke off", str(message.get("why", message.get("type", "")))[:300]
        )

    def __reduce__(self) -> tuple:
        return type(self), (self.peer, self.message)


class Group:
    """The ranks of a cluster over channels: a :class:`.collective.Collective`.

    Args:
        rank: this one. size: of all.
        channels: to other ranks. Rank 0's to all and all ranks' to 0 must be there; the others
            only for the algorithms that use them.
        wire: ``float32`` or ``float16``: how activations are sent.
        seconds: the longest wait for a peer, which includes that it computes.
        epoch: in every frame; one of another epoch is refused.

    Attributes:
        choice: which algorithm is used from how many bytes on, ascending.
        hub_seconds: the longest wait for rank 0, which may itself wait for others.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        channels: Mapping[int, Channel],
        wire: str = "float32",
        seconds: float = 10.0,
        epoch: int = 0,
    ) -> None:
        self.rank, self.size, self.seconds, self.epoch = rank, size, seconds, epoch
        self.channels, self.hub_seconds = dict(channels), seconds
        self.choice: Sequence[tuple[int, str]] = [(0, "doubling" if size == 2 else "star")]
        self.set_wire(wire)
        self._step, self._sequence = 0, 0
        self._scratch = np.empty(0, np.float32)

    def set_wire(self, wire: str) -> None:
        """Send activations as ``float32`` or ``float16`` from now on; all ranks alike."""
        self._halves = {"float32": False, "float16": True}[wire]

    def begin(self, step: int) -> None:
        """Count operations from zero again, within this step."""
        self._step, self._sequence = step, 0

    def reserve(self, count: int) -> None:
        """Make room for sums of ``count`` elements now, rather than within the first."""
        self._scratch = np.empty(max(count, self._scratch.size), np.float32)
        for channel in self.channels.values():
            channel.reserve(min(4 * count, 4 * PIECE))

    @property
    def available(self) -> tuple[str, ...]:
        """The algorithms for which all links are there, on this rank."""
        if self.size == 1:
            return ("star",)
        if self.size == 2:
            return ALGORITHMS[:2]
        meshed = len(self.channels) == self.size - 1
        return ALGORITHMS if meshed else ALGORITHMS[:1]

    def all_reduce(self, values: np.ndarray) -> None:
        """Sum over all ranks, in place; ``values`` is float32 and C-contiguous, of any shape.

        Raises:
            PeerLost: a peer is gone, or silent for too long. Interrupted: one broke off.
        """
        place = bisect.bisect_right(self.choice, values.nbytes, key=lambda entry: entry[0])
        self.all_reduce_by(self.choice[max(place - 1, 0)][1], values)

    def all_reduce_by(self, algorithm: str, values: np.ndarray) -> None:
        """As :meth:`all_reduce`, by one algorithm; all ranks must name the same."""
        if self.size == 1:
            return
        flat = values.reshape(-1)
        if flat.dtype != np.float32 or not np.shares_memory(flat, values):
            raise ProtocolError("only contiguous float32 arrays are summed")
        if self._scratch.size < flat.size:
            self.reserve(flat.size)
        self._sequence += 1
        {"star": self._star, "doubling": self._doubling, "ring": self._ring}[algorithm](flat)

    def broadcast(self, values: np.ndarray) -> None:
        """Rank 0's values on every rank, in place; of any plain dtype, C-contiguous."""
        self._sequence += 1
        if self.size == 1:
            return
        if self.rank:
            np.copyto(values, self._take(0, values.shape, array_type(values)))
            return
        header = self._header(values, array_type(values), 0)
        for other in range(1, self.size):
            self.channels[other].send(header, values, self.seconds)

    def gather(self, values: np.ndarray) -> list[np.ndarray] | None:
        """Every rank's values, on rank 0; all of one shape and dtype. None on the others."""
        self._sequence += 1
        if self.rank:
            header = self._header(values, array_type(values), 0)
            self.channels[0].send(header, np.ascontiguousarray(values), self.seconds)
            return None
        others = range(1, self.size)
        code = array_type(values)
        return [values, *(self._take(other, values.shape, code).copy() for other in others)]

    def send(self, other: int, values: np.ndarray) -> None:
        """Values to a rank that this one has a link to, which must :meth:`receive` them."""
        values = np.ascontiguousarray(values)
        header = self._header(values, array_type(values), 0)
        self.channels[other].send(header, values, self.seconds)

    def receive(self, other: int, values: np.ndarray) -> None:
        """What another rank sends, into ``values``; of the same shape and dtype."""
        np.copyto(values, self._take(other, values.shape, array_type(values)))

    def _star(self, values: np.ndarray) -> None:
        if self.rank:
            self._put(0, values)
            self._take_into(0, values)
            return
        for other in range(1, self.size):
            self._add(other, values)
        header, content = self._encoded(values)
        self._decode(header, content, values)
        for other in range(1, self.size):
            self.channels[other].send(header, content, self.seconds)

    def _doubling(self, values: np.ndarray) -> None:
        power = 1 << (self.size.bit_length() - 1)
        if self.rank >= power:  # folded into a rank that takes part
            self._put(self.rank - power, values)
            self._take_into(self.rank - power, values)
            return
        folded = self.rank + power if self.rank + power < self.size else None
        if folded is not None:
            self._add(folded, values)
        distance = 1
        while distance < power:
            self._exchange(self.rank ^ distance, values)
            distance *= 2
        self._round(values)
        if folded is not None:
            self._put(folded, values)

    def _exchange(self, other: int, values: np.ndarray) -> None:
        for piece in _pieces(values):
            header, content = self._encoded(piece)
            self.channels[other].send(header, content, self.seconds)
            self._decode(header, content, piece)  # add what the other adds, to the last bit
            self._add(other, piece)

    def _ring(self, values: np.ndarray) -> None:
        size, right, left = self.size, (self.rank + 1) % self.size, (self.rank - 1) % self.size
        bounds = [values.size * i // size for i in range(size + 1)]
        parts = [values[a:b] for a, b in itertools.pairwise(bounds)]
        for hop in range(size - 1):
            gone, come = parts[(self.rank - hop) % size], parts[(self.rank - hop - 1) % size]
            self._shift(right, gone, left, come, self._add)
        self._round(parts[(self.rank + 1) % size])
        for hop in range(size - 1):
            gone, come = parts[(self.rank + 1 - hop) % size], parts[(self.rank - hop) % size]
            self._shift(right, gone, left, come, self._take_into)

    def _shift(
        self,
        right: int,
        gone: np.ndarray,
        left: int,
        come: np.ndarray,
        into: Callable[[int, np.ndarray], None],
    ) -> None:
        """Send one part to the right while another comes from the left, never so much at once
        that all wait for room in each other's buffers."""
        outgoing, incoming = _pieces(gone), _pieces(come)
        for i in range(max(len(outgoing), len(incoming))):
            if i < len(outgoing):
                self._put(right, outgoing[i])
            if i < len(incoming):
                into(left, incoming[i])

    def _header(self, values: np.ndarray, code: DType, exponent: int) -> Header:
        counts = (self.epoch, self._step, self._sequence)
        return Header(Kind.ARRAY, values.nbytes, code, exponent, values.shape, *counts)

    def _encoded(self, values: np.ndarray) -> tuple[Header, np.ndarray]:
        """As it is sent. Halves share one exponent, so that large sums do not become infinite
        and small ones keep their bits."""
        if not self._halves:
            return self._header(values, DType.FLOAT32, 0), values
        top = float(np.abs(values).max(initial=0.0))
        known = math.isfinite(top) and top > 0
        exponent = max(math.frexp(top)[1] - HALF_EXPONENT, -120) if known else 0
        halves = np.ldexp(values, -exponent).astype(np.float16)
        return self._header(halves, DType.FLOAT16, exponent), halves

    def _decode(self, header: Header, content: np.ndarray, into: np.ndarray) -> None:
        if header.dtype == DType.FLOAT16:
            np.ldexp(content.astype(np.float32), header.exponent, out=into)
        elif content is not into:
            np.copyto(into, content)

    def _round(self, values: np.ndarray) -> None:
        """To what the wire can say: what stays here must be what the others get."""
        if self._halves:
            self._decode(*self._encoded(values), values)

    def _put(self, other: int, values: np.ndarray) -> None:
        self.channels[other].send(*self._encoded(values), self.seconds)

    def _add(self, other: int, values: np.ndarray) -> None:
        if not self._halves:
            values += self._take(other, values.shape, DType.FLOAT32)
            return
        scratch = self._scratch[: values.size]
        self._take_into(other, scratch)
        values += scratch

    def _take_into(self, other: int, values: np.ndarray) -> None:
        code = DType.FLOAT16 if self._halves else DType.FLOAT32
        header, content = self._receive(other, values.shape, code)
        self._decode(header, content, values)

    def _take(self, other: int, shape: tuple[int, ...], code: DType) -> np.ndarray:
        return self._receive(other, shape, code)[1]

    def _receive(self, other: int, shape: tuple, code: DType) -> tuple[Header, np.ndarray]:
        """The next frame of a rank, which must be this operation's; valid until its next."""
        channel = self.channels[other]
        header, content = channel.receive(self.seconds if other else self.hub_seconds)
        if header.kind == Kind.MESSAGE:
            raise Interrupted(channel.peer, expect(header, content, channel.peer))
        found = (header.epoch, header.step, header.sequence, header.shape, header.dtype)
        due = (self.epoch, self._step, self._sequence, shape, code)
        if header.kind != Kind.ARRAY or found != due:
            raise ProtocolError(f"{channel.peer} is elsewhere", f"it sent {found}, {due} is due")
        return header, array_of(header, content)


def _pieces(values: np.ndarray) -> list[np.ndarray]:
    step = PIECE // values.itemsize
    return [values[i : i + step] for i in range(0, values.size, step)]
