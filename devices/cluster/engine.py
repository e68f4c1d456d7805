"""One rank of a cluster: its part of the network, its part of the memory.

Every rank opens its own shard; rank 0 is given token ids, the others follow::

    engine = Engine.open("out/rank-0", 0, collective, memory_budget=256 << 20)
    logits = engine.prefill([1, 2, 3])      # rank 0: of the last token, (vocabulary,)
    logits = engine.decode(4)
    engine.stop()                           # the other ranks' serve() returns

    engine = Engine.open("out/rank-1", 1, collective)
    engine.serve()                          # the other ranks, or serve_step() again and again

What passes between ranks, all of it through the :class:`~.collective.Collective`:

* For each step rank 0 broadcasts one *frame* of uint8: four int64 (what, how many tokens, the
  first one's position, one spare) and the first token's hidden state (float32). A step of more
  tokens is followed by one broadcast of the others' states (float32).
* Each block ends in one ``all_reduce`` of float32 (tokens, hidden): two a layer.

Ids, text and logits never leave rank 0. A rank's key-value cache is right up to the position that
rank 0 knows; :meth:`Engine.truncate` goes back to an earlier one, and no message is needed for
it. After a failure in the middle of a step every rank calls :meth:`Engine.reset`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import InputError, MissingBackendError, UsageError

from . import native, portable
from .collective import Collective
from .memory import CHUNKS, MemoryPlan, peak_bytes, plan_memory, process_bytes
from .safetensors_folder import widened
from .scheduler import Window
from .shard import WEIGHTS, Shard, read_shard

STOP, STEP, RESET = 0, 1, 2  # what a frame says; other numbers are the caller's own
_HEADER = 32  # bytes of a frame before the state
_RECENT = 32  # tokens, each computed alone, that recent figures are of
_TIMES = ("seconds", "compute", "link", "stall")


class Engine:
    """A rank's part of a model, ready to compute.

    Attributes:
        shard: What this rank has.
        plan: Where its memory goes.
        position: How many tokens the cache holds.
        logits: Rank 0: of the last token, (vocabulary,) float32; overwritten by the next.
    """

    @classmethod
    def open(
        cls,
        folder: Path | str,
        rank: int,
        collective: Collective,
        memory_budget: int | None = None,
        context: int = 2048,
        *,
        weights_budget: int | None = None,
        threads: int | None = None,
        kernel: str | None = None,
        cache: str | None = None,
        direct: bool = True,
    ) -> Engine:
        """Plan the memory, allocate it and read what stays.

        Args:
            folder: The rank's own, as :func:`.split.split` wrote it.
            rank: This rank.
            collective: To the others; its size is the number of shards.
            memory_budget: Bytes that the whole process may take; None: no bound.
            context: Tokens that the cache has room for.
            weights_budget: Bytes for weights in memory, slots included; None: no bound.
            threads: Of computing, by default as many as the cores this process may use,
                at most 8.
            kernel: ``compiled`` or ``numpy``; by default the first that works here.
            cache: Keys and values in ``fp32`` or ``fp16``; by default fp32 for fp32 weights.
            direct: Whether weights are read past the page cache where possible.

        Raises:
            MemoryBudgetError: the budget is too small.
            BundleError: the shard is damaged.
            UsageError: it is another rank's, or of another number of nodes.
        """
        shard = read_shard(folder)
        if (shard.rank, shard.nodes) != (rank, collective.size):
            raise UsageError(
                f"{folder} is the shard of rank {shard.rank} of {shard.nodes}",
                f"this is rank {rank} of {collective.size}",
            )
        threads = threads or min(8, len(os.sched_getaffinity(0)))
        kind = _kernel(kernel)
        half = (cache or ("fp32" if shard.precision == "fp32" else "fp16")) == "fp16"
        context = min(context, shard.language.positions)
        passing = [_passing_bytes(kind, shard, context, chunk, threads) for chunk in CHUNKS]
        kept = _cache_shape(shard, context)
        plan = plan_memory(
            shard,
            passing,
            2 * int(np.prod(kept)) * (2 if half else 4),
            process_bytes(),
            memory_budget,
            weights_budget,
        )
        return cls(Path(folder), shard, collective, plan, context, threads, kind, half, direct)

    def __init__(
        self,
        folder: Path,
        shard: Shard,
        collective: Collective,
        plan: MemoryPlan,
        context: int,
        threads: int,
        kernel: type,
        half: bool,
        direct: bool,
    ) -> None:
        self.shard, self.plan, self.context, self.threads = shard, plan, context, threads
        self.position = 0
        self._collective = collective
        language = shard.language
        shape = _cache_shape(shard, context)
        kind = np.float16 if half else np.float32
        self._keys, self._values = np.zeros(shape, kind), np.zeros(shape, kind)
        self._kernel = kernel(
            shard, self._keys, self._values, _turns(shard, context), plan.chunk, threads
        )
        self._hidden = np.zeros((plan.chunk, language.hidden), np.float32)
        self._part = np.zeros((plan.chunk, language.hidden), np.float32)
        self._frame = np.zeros(_HEADER + 4 * language.hidden, np.uint8)
        self._header = self._frame[:_HEADER].view(np.int64)
        self._first = self._frame[_HEADER:].view(np.float32)
        self.logits = np.zeros(language.vocabulary if shard.rank == 0 else 0, np.float32)
        self._rows = open(folder / WEIGHTS, "rb", buffering=0)  # noqa: SIM115 - held until close()
        self._window = Window(folder / WEIGHTS, shard.blocks, plan.kept_blocks, plan.arena, direct)
        self.times: dict[str, float] = {}
        self._totals = {"tokens": 0} | dict.fromkeys(_TIMES, 0.0)
        self._recent: deque[tuple[float, ...]] = deque(maxlen=_RECENT)

    # ---- rank 0 -----------------------------------------------------------------------------

    def prefill(self, ids: Iterable[int]) -> np.ndarray:
        """Take tokens in after those that the cache holds.

        Returns:
            The logits of the last one, (vocabulary,); the array is used again.

        Raises:
            UsageError: not on rank 0, or nothing to take in.
            InputError: an id that the model does not have, or no room in the cache.
        """
        ids = [int(one) for one in ids]
        self._check(ids)
        for first in range(0, len(ids), self.plan.chunk):
            part = ids[first : first + self.plan.chunk]
            self._embed(part)
            self._send(STEP, len(part), self.position)
            self._pass(len(part), first + len(part) == len(ids))
        return self.logits

    def decode(self, token: int) -> np.ndarray:
        """Take one token in; otherwise as :meth:`prefill`."""
        return self.prefill((token,))

    def announce(self, what: int, first: int = 0, second: int = 0) -> None:
        """Send the other ranks a frame without tokens; numbers from 16 are the caller's own."""
        self._header[:] = (what, first, second, 0)
        self._collective.broadcast(self._frame)

    def stop(self) -> None:
        """Let the other ranks' :meth:`serve` return."""
        self.announce(STOP)

    def truncate(self, position: int) -> None:
        """Forget the tokens from ``position`` on.

        Raises:
            UsageError: the cache holds fewer.
        """
        if not 0 <= position <= self.position:
            raise UsageError(f"cannot go back to {position}: the cache holds {self.position}")
        self.position = position

    # ---- the other ranks --------------------------------------------------------------------

    def serve_step(self) -> tuple[int, int, int]:
        """Wait for a frame and do what it says.

        Returns:
            What it was (:data:`STOP`, :data:`STEP`, :data:`RESET` or the caller's own number)
            and its two numbers.
        """
        self._collective.broadcast(self._frame)
        what, first, second = (int(one) for one in self._header[:3])
        if what == STEP:
            self.follow(first, second)
        elif what == RESET:
            self.reset()
        return what, first, second

    def follow(self, count: int, position: int) -> None:
        """One step whose frame has arrived.

        Raises:
            InputError: rank 0 asks for what this rank has no room for.
        """
        if not 0 < count <= self.plan.chunk or not 0 <= position <= self.context - count:
            raise InputError(
                f"rank 0 sent {count} tokens at {position}",
                f"there is room for {self.plan.chunk} at a time and {self.context} in all",
            )
        self.position = position
        self._hidden[0] = self._first
        if count > 1:
            self._collective.broadcast(self._hidden[1:count])
        self._pass(count, False)

    def serve(self) -> None:
        """Follow rank 0 until it says :meth:`stop`."""
        while self.serve_step()[0] != STOP:
            pass

    # ---- any rank ---------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget all tokens, and whatever was broken off."""
        self.position = 0
        self._window.rewind()

    def report(self) -> dict[str, Any]:
        """This rank's share, bytes of the plan and of the process, and seconds a token: of all so
        far, of the last step, and of the last tokens that were computed alone (``recent``), as
        those of an answer are."""
        plan, tokens = self.plan, max(self._totals["tokens"], 1)
        names = ("base", "reserve", "cache", "activations", "arena", "kept", "streamed", "total")
        names += ("budget",)
        return {
            "rank": self.shard.rank,
            "share": _share(self.shard),
            "precision": self.shard.precision,
            "kernel": self._kernel.name,
            "threads": self.threads,
            "chunk": plan.chunk,
            "memory": {name: getattr(plan, name) for name in names}
            | {"now": process_bytes(), "peak": peak_bytes()},
            "tokens": self._totals["tokens"],
            "seconds_per_token": {name: self._totals[name] / tokens for name in _TIMES},
            "recent": {"tokens": len(self._recent)} | self._recently(),
            "last_step": dict(self.times),
        }

    def close(self) -> None:
        """End all threads and close the files."""
        self._window.close()
        self._kernel.close()
        self._rows.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- inside -----------------------------------------------------------------------------

    def _check(self, ids: list[int]) -> None:
        if self.shard.rank != 0:
            raise UsageError(f"rank {self.shard.rank} takes no tokens: it follows rank 0")
        if not ids:
            raise UsageError("there are no tokens to take in")
        if min(ids) < 0 or max(ids) >= self.shard.language.vocabulary:
            raise InputError(
                "a token is not of this model",
                f"{min(ids)} to {max(ids)}, of {self.shard.language.vocabulary}",
            )
        if self.position + len(ids) > self.context:
            raise InputError(
                f"{len(ids)} tokens do not fit after {self.position}",
                f"the cache has room for {self.context}",
                "a larger --context",
            )

    def _embed(self, ids: list[int]) -> None:
        offset, kind = self.shard.embedding
        width = self.shard.language.hidden
        size = width * (4 if kind == "fp32" else 2)
        for place, token in enumerate(ids):
            data = os.pread(self._rows.fileno(), size, offset + token * size)
            stored = np.frombuffer(data, np.float32 if kind == "fp32" else np.uint16)
            self._hidden[place] = stored if kind == "fp32" else widened(stored)

    def _send(self, what: int, count: int, position: int) -> None:
        if self._collective.size == 1:
            return
        self._first[:] = self._hidden[0]
        self.announce(what, count, position)
        if count > 1:
            self._collective.broadcast(self._hidden[1:count])

    def _pass(self, count: int, head: bool) -> None:
        """All blocks for ``count`` tokens whose states are in ``_hidden``."""
        began, link = time.perf_counter(), 0.0
        window, hidden, part = self._window, self._hidden[:count], self._part[:count]
        window.begin(head)
        rank_is_alone = self._collective.size == 1
        for index, block in enumerate(self.shard.blocks):
            if block.kind in ("norm", "head"):
                break
            base = window.take(index)
            if block.kind == "attention":
                self._kernel.attention(block, base, hidden, part, self.position)
            else:
                self._kernel.feed_forward(block, base, hidden, part)
            window.release(index)
            if not rank_is_alone:
                sent = time.perf_counter()
                self._collective.all_reduce(part)
                link += time.perf_counter() - sent
            hidden += part
        self.position += count
        if head:
            self._head(hidden[-1])
        self._note(time.perf_counter() - began, link, count)

    def _head(self, state: np.ndarray) -> None:
        epsilon = np.float32(self.shard.language.epsilon)
        for index, block in enumerate(self.shard.blocks):
            if block.kind not in ("norm", "head"):
                continue
            base = self._window.take(index)
            if block.kind == "norm":
                weight = portable.vector(block, base, "norm")
                scale = np.sqrt((state * state).mean(dtype=np.float32) + epsilon)
                state = np.ascontiguousarray(state / scale * weight)
            else:
                rows = block.tensors["head"].rows
                self._kernel.head(block, base, state, self.logits[block.index :][:rows])
            self._window.release(index)

    def _note(self, seconds: float, link: float, count: int) -> None:
        stall = self._window.stalled
        compute = seconds - link - stall
        self.times = {
            "tokens": count,
            "seconds": seconds,
            "compute": compute,
            "link": link,
            "stall": stall,
            "read_bytes": self._window.read_bytes,
        }
        for name in self._totals:
            self._totals[name] += self.times[name]
        if count == 1:
            self._recent.append(tuple(self.times[name] for name in _TIMES))

    def _recently(self) -> dict[str, float]:
        recent = list(self._recent)
        means = (sum(column) / len(recent) for column in zip(*recent, strict=True))
        return dict(zip(_TIMES, means, strict=True)) if recent else {}


def _share(shard: Shard) -> dict[str, int]:
    """What a rank has of each layer, and how much there is."""
    language = shard.language
    heads, kv_heads, columns = shard.share.sizes
    return {
        "layers": language.layers,
        "heads": heads,
        "of_heads": language.heads,
        "kv_heads": kv_heads,
        "feed_forward": columns,
        "of_feed_forward": language.feed_forward,
    }


def _kernel(name: str | None) -> type:
    if name == "numpy":
        return portable.NumpyKernel
    try:
        native.library()
    except MissingBackendError:
        if name == "compiled":
            raise
        return portable.NumpyKernel
    return native.NativeKernel


def _cache_shape(shard: Shard, context: int) -> tuple[int, int, int, int]:
    language = shard.language
    return language.layers, shard.share.sizes[1], context, language.head_size


def _passing_bytes(kind: type, shard: Shard, context: int, chunk: int, threads: int) -> int:
    language = shard.language
    states = 4 * (2 * chunk + 2) * language.hidden
    logits = 4 * language.vocabulary if shard.rank == 0 else 0
    turns = 4 * context * language.head_size
    if kind is native.NativeKernel:
        return states + logits + turns + native.scratch_bytes(shard, context, chunk, threads)
    return states + logits + turns + portable.scratch_bytes(shard, chunk)


def _turns(shard: Shard, context: int) -> np.ndarray:
    """Cosine and sine of every angle, (context, head size / 2, 2); products in float32, as
    transformers forms them."""
    inverse = np.array(shard.language.inverse_frequencies, np.float32)
    angles = np.arange(context, dtype=np.float32)[:, None] * inverse
    return np.ascontiguousarray(np.stack([np.cos(angles), np.sin(angles)], -1), np.float32)
