"""A cluster's token, block by block: reading ahead, computing, summing over the links.

A discrete simulation, because a formula that adds or overlaps means is wrong where it matters:
blocks differ in size, those that stay give the reader time, a slow rank makes all others wait at
each sum, and a ring of slots holds only so much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .shard import Block


@dataclass(frozen=True)
class Device:
    """What one rank can do.

    Attributes:
        disk: Bytes a second, reading blocks one after another.
        bandwidth: Bytes of weights a second that a token's products pass through.
        multiplies: Multiply-adds a second, where many tokens share a pass.
        overhead: Seconds that a block takes however small it is.
    """

    disk: float
    bandwidth: float
    multiplies: float = 1e11
    overhead: float = 2e-5


@dataclass(frozen=True)
class Link:
    """Between the hub and each worker.

    Attributes:
        latency: Seconds one way.
        bandwidth: Bytes a second.
    """

    latency: float = 0.0
    bandwidth: float = float("inf")

    def all_reduce(self, size: int, ranks: int) -> float:
        """Seconds of one sum of ``size`` bytes: pairwise for two ranks, a star for more."""
        if ranks == 1:
            return 0.0
        if ranks == 2:
            return self.latency + size / self.bandwidth
        return 2 * self.latency + 2 * (ranks - 1) * size / self.bandwidth

    def broadcast(self, size: int, ranks: int) -> float:
        """Seconds until the last worker has the hub's frame."""
        return 0.0 if ranks == 1 else self.latency + (ranks - 1) * size / self.bandwidth


@dataclass(frozen=True)
class Rank:
    """One rank's work: its blocks, which stay, its ring, and the device that does it.

    Attributes:
        cache_bytes: Of keys and values that each attention block reads for a token.
    """

    blocks: Sequence[Block]
    kept: frozenset[int]
    arena: int
    device: Device
    cache_bytes: float = 0.0


@dataclass(frozen=True)
class Simulated:
    """Seconds of one token, and where rank by rank they went (compute, stall of reading)."""

    seconds: float
    link: float
    compute: tuple[float, ...]
    stall: tuple[float, ...]


class _Reader:
    """When each block that is read anew is there: reads wait for room in the ring."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._sizes: list[int] = []
        self._ends: list[float] = []
        self._freed: list[float] = []
        self._oldest = 0  # of those that the ring holds together with the next

    def ready(self, index: int) -> float:
        """When the next block, of this index, has been read."""
        size = self._rank.blocks[index].bytes
        self._sizes.append(size)
        while sum(self._sizes[self._oldest :]) > self._rank.arena:
            self._oldest += 1
        room = self._freed[self._oldest - 1] if self._oldest else 0.0
        start = max(room, self._ends[-1] if self._ends else 0.0)
        self._ends.append(start + size / self._rank.device.disk)
        return self._ends[-1]

    def free(self, when: float) -> None:
        """The block is computed."""
        self._freed.append(when)


def simulate(
    ranks: Sequence[Rank],
    link: Link,
    hidden: int,
    tokens: int = 1,
    wire: int = 4,
    passes: int = 4,
) -> Simulated:
    """The last of some passes, each of ``tokens`` tokens: the first ones fill the rings.

    Args:
        ranks: Rank 0 first; its blocks of the head come last.
        link: Between the ranks.
        hidden: Elements of a token's state.
        tokens: That share a pass (a chunk of a prompt).
        wire: Bytes of an element on the link.
        passes: How often the weights are gone through.
    """
    readers = [_Reader(rank) for rank in ranks]
    clocks = [0.0] * len(ranks)
    result = Simulated(0.0, 0.0, (), ())
    for _ in range(passes):
        result = _one_pass(ranks, readers, clocks, link, hidden * tokens * wire, tokens)
    return result


def _one_pass(
    ranks: Sequence[Rank],
    readers: Sequence[_Reader],
    clocks: list[float],
    link: Link,
    state: int,
    tokens: int,
) -> Simulated:
    began, links = clocks[0], 0.0
    compute, stall = [0.0] * len(ranks), [0.0] * len(ranks)
    sent = began + link.broadcast(state, len(ranks))
    for place in range(1, len(ranks)):
        clocks[place] = max(clocks[place], sent)

    def run(place: int, index: int) -> None:
        rank, block = ranks[place], ranks[place].blocks[index]
        if index not in rank.kept:
            wait = max(0.0, readers[place].ready(index) - clocks[place])
            stall[place] += wait
            clocks[place] += wait
        spent = _block_seconds(rank, block, tokens)
        compute[place] += spent
        clocks[place] += spent
        if index not in rank.kept:
            readers[place].free(clocks[place])

    layers = sum(block.kind in ("attention", "feed_forward") for block in ranks[0].blocks)
    for index in range(layers):
        for place in range(len(ranks)):
            run(place, index)
        spent = link.all_reduce(state, len(ranks))
        links += spent
        clocks[:] = [max(clocks) + spent] * len(ranks)
    for index in range(layers, len(ranks[0].blocks)):
        run(0, index)
    return Simulated(clocks[0] - began, links, tuple(compute), tuple(stall))


def _block_seconds(rank: Rank, block: Block, tokens: int) -> float:
    device = rank.device
    passed = block.bytes + (rank.cache_bytes if block.kind == "attention" else 0.0)
    weights = sum(one.rows * one.columns for one in block.tensors.values())
    if block.kind == "head":
        tokens = 1
    products = weights * tokens / device.multiplies
    return max(passed / device.bandwidth, products) + device.overhead


def without(ranks: Sequence[Rank], **changes: float) -> list[Rank]:
    """The same ranks with devices changed, to see what bounds a token."""
    return [replace(rank, device=replace(rank.device, **changes)) for rank in ranks]
