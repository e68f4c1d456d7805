"""Each rank's part of a model, by what its device can do.

A token passes through all of a rank's weights once, so memory bandwidth bounds it, and every rank
waits for the slowest at each sum. Within *T* seconds a rank gets through min(*b* *T*, *m* + *d*
*T*) bytes: *b* its memory's bandwidth, *m* what it can hold, *d* what its disk reads. *T* is the
least in which all ranks together get through the whole model. While all of it fits into the
memories, nothing is to be read, and *d* is 0: parts are as the bandwidths, and who is full gives
the rest to the others. The head is rank 0's in any case, and all others wait for it: it takes
memory there, and does not change the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit.errors import MemoryBudgetError, UsageError

from .language import Language
from .layout import blocks_of
from .memory import mib
from .partition import Share, partition
from .plan import cache_bytes, without_weights

if TYPE_CHECKING:
    from ..profiles import Profile

USABLE: Final = 0.75  # of a device's memory: its system and other programs have the rest
# Bytes a second where no device's are known, as of the plan; like everywhere, so parts are equal.
BANDWIDTH: Final = 15e9
DISK: Final = 1e9
_ROUNDS: Final = 40
_LEAST: Final = 1e-4  # of the whole: a part is never 0, a rank has a head at least


@dataclass(frozen=True)
class Node:
    """What of a device decides its part.

    Attributes:
        memory: Bytes that the rank's process may take.
        bandwidth: Of the memory, bytes a second.
        bandwidth_from: ``measured``, ``stated`` (the peak) or ``assumed``.
        disk: Bytes a second that it reads.
        disk_from: ``measured`` or ``assumed``.
    """

    name: str
    memory: int
    bandwidth: float
    bandwidth_from: str
    disk: float
    disk_from: str


@dataclass(frozen=True)
class Part:
    """What one rank gets.

    Attributes:
        part: Of the layers, 0 to 1, as it was worked out; heads come in whole ones.
        share: Heads and columns.
        needed: Bytes of the process if all its weights are in memory.
        streamed: Bytes that are read for a token at least, since they are not.
        why: What decided it, in words.
    """

    node: Node
    part: float
    share: Share
    needed: int
    streamed: int
    why: str

    def document(self) -> dict[str, Any]:
        """As JSON has it; bytes, and bytes a second."""
        node = self.node
        return {
            "device": node.name,
            "part": self.part,
            "memory_bytes": node.memory,
            "needed_bytes": self.needed,
            "streamed_bytes": self.streamed,
            "memory_bandwidth": node.bandwidth,
            "memory_bandwidth_from": node.bandwidth_from,
            "disk_read_bandwidth": node.disk,
            "disk_read_bandwidth_from": node.disk_from,
            "why": self.why,
        }


@dataclass(frozen=True)
class Balance:
    """All ranks' parts; ``notes`` say what was assumed, and whether weights are streamed."""

    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    @property
    def ratio(self) -> tuple[float, ...]:
        """As :func:`.partition.partition` takes it."""
        return tuple(part.part for part in self.parts)


def nodes_of(profiles: Sequence[Profile]) -> tuple[Node, ...]:
    """The devices' figures, those that are lacking filled in.

    Measured bandwidths are taken if every device has one, else stated ones where there are, so
    that as far as possible like is compared with like. Who has neither is taken to be as slow as
    the slowest other one: too large a part makes all wait.

    Raises:
        UsageError: one is a graphics card.
    """
    for one in profiles:
        if one.processor is None:
            raise UsageError(
                f"{one.name} is a graphics card",
                "a cluster computes on processors",
                "edgekit devices probe on its computer writes that one's profile",
            )
    found = _bandwidths(profiles)
    slowest = min((rate for rate, _ in found if rate), default=BANDWIDTH)
    disks = [one.measured and one.measured.disk_read_bandwidth for one in profiles]
    slowest_disk = min((rate for rate in disks if rate), default=DISK)
    return tuple(
        Node(
            one.name,
            int(USABLE * one.memory_bytes),
            float(rate or slowest),
            origin if rate else "assumed",
            float(disk or slowest_disk),
            "measured" if disk else "assumed",
        )
        for one, (rate, origin), disk in zip(profiles, found, disks, strict=True)
    )


def _bandwidths(profiles: Sequence[Profile]) -> list[tuple[int | None, str]]:
    measured = [one.measured and one.measured.memory_bandwidth for one in profiles]
    if all(measured):
        return [(rate, "measured") for rate in measured]
    stated = [one.memory_bandwidth for one in profiles]
    return [
        (peak, "stated") if peak else (rate, "measured")
        for rate, peak in zip(measured, stated, strict=True)
    ]


def balance(
    language: Language, nodes: Sequence[Node], precision: str, context: int = 2048
) -> Balance:
    """Each rank's part of heads and feed-forward.

    Args:
        language: The model.
        nodes: One a rank, rank 0 first.
        precision: Of the weights.
        context: Tokens whose keys and values have to fit, too.

    Raises:
        MemoryBudgetError: a device cannot even hold two blocks of its part at a time.
        UsageError: more ranks than the model can be cut into.
    """
    weigh = _Scale(language, nodes, precision, context)
    ratio = _fitting(weigh, weigh.over, streams=False)
    streams = ratio is None
    if ratio is None:
        ratio = _fitting(weigh, weigh.short, streams=True)
    if ratio is None:
        raise weigh.refusal()
    shares = partition(language, ratio)
    needed = [weigh.needed(rank, share) for rank, share in enumerate(shares)]
    even = _parts(nodes, [float("inf")] * len(nodes), weigh.whole)
    parts = []
    for rank, (node, share) in enumerate(zip(nodes, shares, strict=True)):
        over = max(0, needed[rank] - node.memory)
        why = _why(node, ratio[rank] < 0.99 * even[rank], over)
        parts.append(Part(node, ratio[rank], share, needed[rank], over, why))
    return Balance(tuple(parts), _notes(nodes, streams, any(part.streamed for part in parts)))


class _Scale:
    """What a share weighs on each of the devices."""

    def __init__(
        self, language: Language, nodes: Sequence[Node], precision: str, context: int
    ) -> None:
        self.language, self.nodes = language, nodes
        self._precision, self._context = precision, context
        (all_of_it,) = partition(language, [1])
        layers = sum(block.bytes for block in blocks_of(language, all_of_it, 1, precision))
        self.whole = layers + cache_bytes(language, precision, context, language.kv_heads)
        rest = [self.needed(rank, all_of_it) - self.whole for rank in range(len(nodes))]
        self.rooms = [node.memory - one for node, one in zip(nodes, rest, strict=True)]

    def needed(self, rank: int, share: Share) -> int:
        """Bytes of the process with all its weights in memory."""
        blocks = blocks_of(self.language, share, rank, self._precision)
        return self._outside(rank, share, 64) + sum(block.bytes for block in blocks)

    def _outside(self, rank: int, share: Share, chunk: int) -> int:
        return without_weights(
            self.language, self._precision, self._context, share.sizes, rank, chunk
        )

    def over(self, rank: int, share: Share) -> int:
        """Bytes that a device lacks to hold all its weights."""
        return self.needed(rank, share) - self.nodes[rank].memory

    def short(self, rank: int, share: Share) -> int:
        """Bytes that it lacks to stream them: two blocks at a time, and the norms."""
        blocks = blocks_of(self.language, share, rank, self._precision)
        smallest = 2 * max(block.bytes for block in blocks)
        smallest += sum(block.bytes for block in blocks if block.kind == "norm")
        smallest = min(smallest, sum(block.bytes for block in blocks))
        return self._outside(rank, share, 1) + smallest - self.nodes[rank].memory

    def refusal(self) -> MemoryBudgetError:
        """Of the device that lacks most, with as little as a rank can have."""
        count = len(self.nodes)
        lacking = {}
        for rank in range(count):
            ratio = [_LEAST if one == rank else 1.0 for one in range(count)]
            lacking[rank] = self.short(rank, partition(self.language, ratio)[rank])
        rank = max(lacking, key=lambda one: lacking[one])
        node = self.nodes[rank]
        return MemoryBudgetError(
            f"rank {rank} does not fit {node.name}",
            f"its process may take {mib(node.memory)}, and two blocks of the least part, keys and "
            f"values of {self._context} tokens and the process take "
            f"{mib(node.memory + lacking[rank])}",
            "other devices, a smaller precision or a shorter --context",
        )


def _fitting(
    weigh: _Scale, lacking: Callable[[int, Share], int], streams: bool
) -> list[float] | None:
    """Parts with which no rank lacks bytes; None if there are none.

    Heads come in whole ones: a rank that lacks some all the same gets less in the next round.
    """
    rooms = list(weigh.rooms)
    for _ in range(_ROUNDS):
        if not streams and sum(max(room, 0) for room in rooms) < weigh.whole:
            return None
        ratio = _parts(weigh.nodes, rooms, weigh.whole, streams)
        shares = partition(weigh.language, ratio)
        more = [max(0, lacking(rank, share)) for rank, share in enumerate(shares)]
        if not any(more):
            return ratio
        rooms = [room - one for room, one in zip(rooms, more, strict=True)]
    return None


def _parts(
    nodes: Sequence[Node], rooms: Sequence[float], whole: float, streams: bool = False
) -> list[float]:
    """Parts of the whole, of sum 1, that the ranks get through in the same least time."""

    def through(seconds: float) -> list[float]:
        return [
            max(
                min(one.bandwidth * seconds, room + (one.disk * seconds if streams else 0.0)),
                _LEAST * whole,
            )
            for one, room in zip(nodes, rooms, strict=True)
        ]

    low, high = 0.0, 1.0
    while sum(through(high)) < whole and high < 1e12:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(through(middle)) < whole else (low, middle)
    bytes_of = through(high)
    return [one / sum(bytes_of) for one in bytes_of]


def _why(node: Node, less: bool, over: int) -> str:
    speed = f"memory bandwidth {node.bandwidth / 1e9:.3g} GB/s, {node.bandwidth_from}"
    if over:
        disk = f"{node.disk / 1e6:.4g} MB/s, {node.disk_from}"
        return f"{over / 1e6:.0f} MB of it from its disk for each token: {disk}"
    if less:
        return f"its memory is full: {node.memory / 1e9:.3g} GB usable ({speed})"
    return speed


def _notes(nodes: Sequence[Node], streams: bool, over: bool) -> tuple[str, ...]:
    notes = []
    known = [node for node in nodes if node.bandwidth_from != "assumed"]
    lacking = ", ".join(node.name for node in nodes if node not in known)
    if not known:
        notes.append("no profile has a memory bandwidth: all are taken to be equally fast")
    elif lacking:
        notes.append(f"no memory bandwidth of {lacking}: taken to be the slowest other one's")
    if len({node.bandwidth_from for node in known}) > 1:
        notes.append(
            "some bandwidths are measured and some are stated peaks, which nothing reaches: "
            "edgekit devices probe on every device makes them alike"
        )
    if streams and over:
        notes.append("the devices cannot hold the model: weights are read again for each token")
        unknown = list(dict.fromkeys(n.name for n in nodes if n.disk_from == "assumed"))
        if len({n.name for n in nodes}) == len(unknown):
            notes.append(f"no profile has a disk's speed: {DISK / 1e9:.0f} GB/s is assumed of each")
        elif unknown:
            notes.append(f"no disk speed of {', '.join(unknown)}: the slowest other one's is taken")
    return tuple(notes)
