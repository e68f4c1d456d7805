"""What a cluster would take and do: memory, time to the first token, time of a token, and why.

``simulate`` does the timing; memory is divided as the engine divides it (:mod:`.memory`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from edgekit.errors import EdgekitError, MemoryBudgetError

from .language import Language
from .layout import blocks_of
from .memory import CHUNKS, RESERVE, mib, place
from .packing import PRECISIONS
from .partition import partition
from .shard import Block
from .simulate import Device, Link, Rank, Simulated, simulate, without

BASE: Final = 40 << 20  # bytes of Python, NumPy and the kernel, before anything is loaded
_ENDLESS: Final = 1e15


@dataclass(frozen=True)
class Setup:
    """A cluster that may not exist.

    Attributes:
        memories: Bytes that each rank's process may take; as many as there are ranks.
        devices: What each can do.
        link: Between them.
        context: Tokens that the cache has room for, and that attention looks back at.
        prompt: Tokens before the first one that is generated.
        wire: Bytes of an activation on the link.
    """

    language: Language
    precision: str
    ratio: tuple[float, ...]
    memories: tuple[int, ...]
    devices: tuple[Device, ...]
    link: Link
    context: int = 2048
    prompt: int = 64
    wire: int = 4


@dataclass(frozen=True)
class Prediction:
    """What is to be expected.

    Attributes:
        peaks: Bytes of each rank's process at most.
        resident: Bytes of weights in each rank's memory, the ring included.
        streamed: Bytes that each rank reads for a token.
        first_seconds: From the prompt to the first token.
        token: One token, once the rings are full.
        bound_by: The part of ``saves`` that would save most.
        saves: Seconds that each would save, by name.
    """

    peaks: tuple[int, ...]
    resident: tuple[int, ...]
    streamed: tuple[int, ...]
    first_seconds: float
    token: Simulated
    bound_by: str
    saves: dict[str, float]

    def document(self) -> dict[str, Any]:
        """As JSON has it; seconds and bytes."""
        return {
            "peak_bytes": list(self.peaks),
            "resident_bytes": list(self.resident),
            "streamed_bytes": list(self.streamed),
            "first_token_seconds": self.first_seconds,
            "token_seconds": self.token.seconds,
            "link_seconds": self.token.link,
            "compute_seconds": list(self.token.compute),
            "stall_seconds": list(self.token.stall),
            "bound_by": self.bound_by,
            "saves_seconds": self.saves,
        }


def predict(setup: Setup) -> Prediction:
    """Divide the memory of every rank, and simulate.

    Raises:
        MemoryBudgetError: a rank has no room for two blocks.
        UsageError: more ranks than the model can be cut into.
    """
    shares = partition(setup.language, setup.ratio)
    ranks, peaks, resident, streamed, chunk = [], [], [], [], CHUNKS[0]
    for index, (share, memory) in enumerate(zip(shares, setup.memories, strict=True)):
        blocks = blocks_of(setup.language, share, index, setup.precision)
        fixed, mine, arena, kept = _divide(setup, share.sizes, index, blocks, memory)
        chunk = min(chunk, mine)
        held = sum(blocks[i].bytes for i in kept)
        looked = _looked_at(setup, share.sizes[1])
        ranks.append(Rank(blocks, frozenset(kept), arena, setup.devices[index], looked))
        peaks.append(fixed + arena + held)
        resident.append(arena + held)
        streamed.append(sum(block.bytes for block in blocks) - held)
    hidden = setup.language.hidden
    token = simulate(ranks, setup.link, hidden, 1, setup.wire)
    saves = _saves(ranks, setup, token.seconds)
    return Prediction(
        tuple(peaks),
        tuple(resident),
        tuple(streamed),
        _first(ranks, setup, chunk),
        token,
        max(saves, key=lambda name: saves[name]),
        saves,
    )


def _first(ranks: Sequence[Rank], setup: Setup, chunk: int) -> float:
    whole, rest = divmod(setup.prompt, chunk)
    seconds = 0.0
    for count, tokens in ((whole, chunk), (1 if rest else 0, rest)):
        if count:
            one = simulate(ranks, setup.link, setup.language.hidden, tokens, setup.wire)
            seconds += count * one.seconds
    return seconds


def _saves(ranks: Sequence[Rank], setup: Setup, seconds: float) -> dict[str, float]:
    """What each part would save if it cost nothing."""
    link, hidden = setup.link, setup.language.hidden
    cases = {
        "disk": (without(ranks, disk=_ENDLESS), link),
        "memory": (without(ranks, bandwidth=_ENDLESS), link),
        "overhead": (without(ranks, overhead=0.0), link),
        "latency": (ranks, replace(link, latency=0.0)),
        "link bandwidth": (ranks, replace(link, bandwidth=_ENDLESS)),
    }
    return {
        name: seconds - simulate(changed, other, hidden, 1, setup.wire).seconds
        for name, (changed, other) in cases.items()
    }


def _looked_at(setup: Setup, kv_heads: int) -> float:
    """Bytes of keys and values that a token looks at in one layer: on average half of all."""
    whole = cache_bytes(setup.language, setup.precision, setup.context, kv_heads)
    return whole / setup.language.layers / 2


def cache_bytes(language: Language, precision: str, context: int, kv_heads: int) -> int:
    """Bytes of the keys and values of so many heads."""
    width = 4 if precision == "fp32" else 2
    return 2 * language.layers * kv_heads * language.head_size * context * width


def without_weights(
    language: Language,
    precision: str,
    context: int,
    sizes: tuple[int, int, int],
    rank: int,
    chunk: int = CHUNKS[0],
) -> int:
    """Bytes of a rank's process that are not weights.

    Args:
        sizes: Query heads, key-value heads and feed-forward columns of the rank.
        chunk: Tokens of a prompt that pass through together.
    """
    heads, kv_heads, columns = sizes
    wide = max(language.hidden, columns, heads * language.head_size)
    rows = max(2 * columns, (heads + 2 * kv_heads) * language.head_size)
    logits = 4 * language.vocabulary if rank == 0 else 0
    activations = chunk * (8 * language.hidden + 6 * wide + 4 * rows) + logits
    activations += 4 * context * language.head_size
    return BASE + RESERVE + cache_bytes(language, precision, context, kv_heads) + activations


def _divide(
    setup: Setup, sizes: tuple[int, int, int], rank: int, blocks: Sequence[Block], memory: int
) -> tuple[int, int, int, tuple[int, ...]]:
    """Fixed bytes, tokens of a chunk, bytes of the ring and the blocks that stay."""
    language, precision, context = setup.language, setup.precision, setup.context
    fixed = 0
    for chunk in CHUNKS:
        fixed = without_weights(language, precision, context, sizes, rank, chunk)
        placed = place(blocks, memory - fixed)
        if placed is not None:
            return fixed, chunk, *placed
    smallest = 2 * max(block.bytes for block in blocks)
    raise MemoryBudgetError(
        f"rank {rank} does not fit {mib(memory)}",
        f"without weights it takes {mib(fixed)}, and two slots take {mib(smallest)}",
        "more nodes, a smaller precision or a shorter context",
    )


def alternatives(setup: Setup) -> dict[str, Prediction | str]:
    """One more device like the last, and each smaller precision; or why it cannot be."""
    last = setup.devices[-1], setup.memories[-1]
    more = replace(
        setup,
        ratio=(*setup.ratio, setup.ratio[-1]),
        devices=(*setup.devices, last[0]),
        memories=(*setup.memories, last[1]),
    )
    cases = {f"{len(more.ratio)} devices": more}
    for precision in PRECISIONS[PRECISIONS.index(setup.precision) + 1 :]:
        cases[precision] = replace(setup, precision=precision)
    found: dict[str, Prediction | str] = {}
    for name, one in cases.items():
        try:
            found[name] = predict(one)
        except EdgekitError as error:
            found[name] = str(error)
    return found
