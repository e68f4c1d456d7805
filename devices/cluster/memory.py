"""What a rank's process takes, worked out before anything is allocated.

The budget is a bound on the whole process: what it takes already (interpreter, libraries,
connections), keys and values, passing values, the ring of slots and the blocks that stay. What
does not fit is refused before the first byte is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgekit.errors import MemoryBudgetError, UsageError

from .shard import Block, Shard

RESERVE: Final = 12 << 20  # what the process still grows by: buffers of connections, heaps, stacks
CHUNKS: Final = (64, 32, 16, 8, 4, 1)  # tokens of a prompt that pass through together
_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{p}B": 1000**n for n, p in enumerate(("K", "M", "G", "T"), 1)}
_UNITS |= {f"{p}iB": 1024**n for n, p in enumerate(("K", "M", "G", "T"), 1)}


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one rank.

    Attributes:
        base: What the process took before.
        reserve: What it may still grow by.
        cache: Keys and values.
        activations: Passing values, logits, angles.
        arena: The ring of slots; 0: everything stays.
        kept: Blocks that stay.
        streamed: Read anew for each token.
        chunk: Tokens of a prompt that pass through together.
        kept_blocks: Their indices.
        budget: What the process may take; None: no bound was given.
    """

    base: int
    reserve: int
    cache: int
    activations: int
    arena: int
    kept: int
    streamed: int
    chunk: int
    kept_blocks: tuple[int, ...]
    budget: int | None = None

    @property
    def total(self) -> int:
        """The bound on the process."""
        return self.without_weights + self.arena + self.kept

    @property
    def without_weights(self) -> int:
        """All that is not weights."""
        return self.base + self.reserve + self.cache + self.activations


def parse_size(text: str) -> int:
    """Bytes of ``256MiB``, ``3GB``, ``1048576``.

    Raises:
        UsageError: it is no size.

    >>> parse_size("1.5KiB")
    1536
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)\s*", text, re.I)
    unit = "" if found is None else found[2]
    known = {name.lower(): factor for name, factor in _UNITS.items()}
    known |= {name[:-1]: factor for name, factor in known.items() if len(name) > 1}
    if found is None or unit.lower() not in known:
        raise UsageError(f"{text!r} is no size", "", "write it like 256MiB or 3GB")
    return int(float(found[1]) * known[unit.lower()])


def mib(count: float) -> str:
    """Bytes for people.

    >>> mib(3 << 20)
    '3.0 MiB'
    """
    return f"{count / (1 << 20):.1f} MiB"


def process_bytes() -> int:
    """What this process takes now, by the kernel's count of its resident pages."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        import psutil

        return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most that this process ever took, by the kernel's counter."""
    try:
        # getrusage's figure begins with that of the process that started this one.
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024
    except (OSError, TypeError):
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(peak if sys.platform == "darwin" else peak * 1024)


def plan_memory(
    shard: Shard,
    passing: Sequence[int],
    cache: int,
    base: int,
    memory_budget: int | None = None,
    weights_budget: int | None = None,
    reserve: int = RESERVE,
) -> MemoryPlan:
    """Divide a budget: the longest chunk first, then a ring, then blocks that stay.

    Args:
        shard: Whose weights.
        passing: Bytes of activations for each of :data:`CHUNKS`.
        cache: Bytes of keys and values.
        base: Bytes that the process takes already.
        memory_budget: A bound on the whole process; None: no bound.
        weights_budget: A bound on ring and kept blocks alone.
        reserve: What the process may still grow by.

    Raises:
        MemoryBudgetError: not even a ring of two blocks fits.
    """
    all_weights = sum(block.bytes for block in shard.blocks)
    for chunk, activations in zip(CHUNKS, passing, strict=True):
        plan = MemoryPlan(base, reserve, cache, activations, 0, 0, 0, chunk, (), memory_budget)
        room = all_weights if memory_budget is None else memory_budget - plan.without_weights
        if weights_budget is not None:
            room = min(room, weights_budget)
        placed = place(shard.blocks, room)
        if placed is not None:
            arena, kept = placed
            in_memory = sum(shard.blocks[index].bytes for index in kept)
            return replace(
                plan,
                arena=arena,
                kept=in_memory,
                streamed=all_weights - in_memory,
                kept_blocks=kept,
            )
    raise _too_small(shard, plan, memory_budget, weights_budget)


def place(blocks: Sequence[Block], room: int) -> tuple[int, tuple[int, ...]] | None:
    """Bytes of the ring and the indices of the blocks that stay; None: the room is too small.

    The ring holds three of the largest blocks if these are at most a quarter of the room,
    otherwise two: one is computed while the next is read. Blocks that stay are spread over the
    pass, so that the reader has time to get ahead at each.
    """
    total = sum(block.bytes for block in blocks)
    if total <= room:
        return 0, tuple(range(len(blocks)))
    always = [i for i, block in enumerate(blocks) if block.kind == "norm"]
    largest = max(block.bytes for block in blocks)
    arena = 3 * largest if 12 * largest <= room else 2 * largest
    free = room - arena - sum(blocks[i].bytes for i in always)
    if free < 0:
        return None
    kept, share, owed = set(always), free / total, 0.0
    for index, block in enumerate(blocks):
        owed += share * block.bytes
        if index not in kept and block.bytes <= min(owed, free):
            kept.add(index)
            free -= block.bytes
            owed -= block.bytes
    for index, block in enumerate(blocks):
        if index not in kept and block.bytes <= free:
            kept.add(index)
            free -= block.bytes
    return arena, tuple(sorted(kept))


def _too_small(
    shard: Shard, plan: MemoryPlan, memory_budget: int | None, weights_budget: int | None
) -> MemoryBudgetError:
    smallest = 2 * max(block.bytes for block in shard.blocks)
    smallest += sum(block.bytes for block in shard.blocks if block.kind == "norm")
    if memory_budget is None or (weights_budget is not None and weights_budget < smallest):
        what = f"a weights budget of {mib(weights_budget or 0)} is too small"
        return MemoryBudgetError(what, f"a ring of two blocks takes {mib(smallest)}")
    needed = plan.without_weights + smallest
    parts = {
        "process": plan.base + plan.reserve,
        "keys and values": plan.cache,
        "activations": plan.activations,
        "two slots": smallest,
    }
    why = " + ".join(f"{name} {mib(size)}" for name, size in parts.items())
    return MemoryBudgetError(
        f"a memory budget of {mib(memory_budget)} is too small for rank {shard.rank}",
        f"{why} = {mib(needed)}",
        f"--memory-budget {-(-needed // (1 << 20))}MiB, a shorter --context or more nodes",
    )
