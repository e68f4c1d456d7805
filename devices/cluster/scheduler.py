"""The sliding window: blocks are read ahead into a fixed arena while others are computed.

One thread reads blocks in the order in which a token needs them, again and again, into a ring of
bytes of fixed size. A block's bytes are free for the next as soon as it is computed. What the
budget has room for beside the ring is read once and stays. Reading goes past the page cache where
the file system allows it, so that the kernel counts no page of it against the process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from edgekit.errors import DeviceError

from .shard import Block

_PATIENCE = 0.5  # seconds between looks at whether the reader still lives


class Window:
    """The weights of one shard, in memory when they are needed.

    Use: :meth:`begin` a pass, then for each block in order :meth:`take` its address, compute,
    :meth:`release` it.
    """

    def __init__(
        self,
        path: Path,
        blocks: Sequence[Block],
        kept: Collection[int],
        arena: int,
        direct: bool = True,
    ) -> None:
        """
        Args:
            path: ``weights.bin``.
            blocks: All blocks in the order of a pass; those of the head come last.
            kept: Indices of blocks that stay in memory.
            arena: Bytes of the ring; at least the largest block that is not kept.
            direct: Whether to read past the page cache if possible.

        Raises:
            DeviceError: the file cannot be read.
        """
        self._blocks = tuple(blocks)
        self._file = _File(path, direct)
        self._streamed = [i for i in range(len(blocks)) if i not in set(kept)]
        self._kept_bytes = sum(blocks[i].bytes for i in kept)
        self._kept = self._load(sorted(kept))
        self._lock = threading.Condition()
        self._failure: Exception | None = None
        self._closed = False
        self.stalled = 0.0  # seconds that computing waited, since the last begin()
        self.read_bytes = 0  # since the last begin()
        self.reading = 0.0  # seconds that the reader spent in reading, since then
        self._start_state()
        self._thread: threading.Thread | None = None
        if self._streamed:
            self._memory = _pages(arena)
            self._arena = np.frombuffer(self._memory, np.uint8)
            self._base = self._arena.ctypes.data
            self._thread = threading.Thread(target=self._read_ahead, name="window", daemon=True)
            self._thread.start()

    def _start_state(self) -> None:
        self._held: deque[tuple[int, int, int]] = deque()  # block, start, end; oldest first
        self._ready: dict[int, int] = {}
        self._passes: list[bool] = []  # whether each pass that has begun ends in the head
        self._epoch = getattr(self, "_epoch", 0) + 1
        self._next_pass, self._next_place = 0, 0

    def _load(self, kept: list[int]) -> dict[int, int]:
        if not kept:
            return {}
        memory = _pages(self._kept_bytes)
        whole = np.frombuffer(memory, np.uint8)
        self._kept_memory, at, found = memory, 0, {}
        for index in kept:
            block = self._blocks[index]
            self._file.read(memoryview(memory)[at : at + block.bytes], block.offset)
            found[index] = whole.ctypes.data + at
            at += block.bytes
        return found

    def begin(self, head: bool = True) -> None:
        """Start a pass over all blocks; without ``head`` those of the head are left out."""
        self.stalled, self.read_bytes, self.reading = 0.0, 0, 0.0
        if self._streamed:
            with self._lock:
                self._passes.append(head)
                self._lock.notify_all()

    def take(self, index: int) -> int:
        """The address of a block's bytes; waits for them if it must.

        Raises:
            DeviceError: reading failed.
        """
        if index in self._kept:
            return self._kept[index]
        with self._lock:
            if index not in self._ready:
                start = time.perf_counter()
                while index not in self._ready and self._failure is None:
                    self._lock.wait(_PATIENCE)
                self.stalled += time.perf_counter() - start
            if index not in self._ready:
                raise DeviceError("cannot read the weights", str(self._failure))
            return self._base + self._ready[index]

    def release(self, index: int) -> None:
        """Say that a block is computed: its place is free."""
        if index in self._kept:
            return
        with self._lock:
            oldest = self._held.popleft()
            if oldest[0] != index:
                raise RuntimeError(f"block {index} is released before block {oldest[0]}")
            del self._ready[index]
            self._lock.notify_all()

    def rewind(self) -> None:
        """Forget a pass that was broken off: the next begins with the first block."""
        if self._streamed:
            with self._lock:
                self._start_state()
                self._lock.notify_all()

    def close(self) -> None:
        """End the reader; the memory goes with the object."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._file.close()

    def _read_ahead(self) -> None:
        try:
            while (place := self._next()) is not None:
                index, start, epoch = place
                block, began = self._blocks[index], time.perf_counter()
                view = memoryview(self._memory)[start : start + block.bytes]
                self._file.read(view, block.offset)
                view.release()
                with self._lock:
                    if epoch == self._epoch:
                        self._ready[index] = start
                        self.read_bytes += block.bytes
                        self.reading += time.perf_counter() - began
                        self._lock.notify_all()
        except Exception as error:  # told to whoever waits for the block
            with self._lock:
                self._failure = error
                self._lock.notify_all()

    def _next(self) -> tuple[int, int, int] | None:
        """The next block, a place for it, and the epoch that it belongs to; None: the end."""
        with self._lock:
            while not self._closed:
                index = self._upcoming()
                if index is not None:
                    start = self._free(self._blocks[index].bytes)
                    if start is not None:
                        self._held.append((index, start, start + self._blocks[index].bytes))
                        self._next_place += 1
                        return index, start, self._epoch
                self._lock.wait()
            return None

    def _upcoming(self) -> int | None:
        """What is to be read next; None: it depends on a pass that has not begun."""
        while True:
            if self._next_place == len(self._streamed):
                self._next_pass, self._next_place = self._next_pass + 1, 0
            index = self._streamed[self._next_place]
            # A block that is still in the ring is not read a second time: a pass is longer.
            if any(index == one[0] for one in self._held):
                return None
            if self._blocks[index].kind != "head":
                return index
            if self._next_pass >= len(self._passes):
                return None
            if self._passes[self._next_pass]:
                return index
            self._next_place = len(self._streamed)

    def _free(self, size: int) -> int | None:
        """Where ``size`` bytes are free in one piece, behind the newest block or at the start."""
        if not self._held:
            return 0
        oldest, newest = self._held[0][1], self._held[-1][2]
        if newest > oldest:
            if newest + size <= len(self._arena):
                return newest
            return 0 if size <= oldest else None
        return newest if newest + size <= oldest else None


def _pages(size: int) -> mmap.mmap:
    """Memory that begins at a page, in large pages where the system has them: a stream of
    weights passes thousands of small ones, and the processor's prefetching stops at each."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class _File:
    """Reads pieces at multiples of the page size, past the page cache if the system can."""

    def __init__(self, path: Path, direct: bool) -> None:
        self.direct = direct and hasattr(os, "O_DIRECT")
        try:
            self._descriptor = self._open(path)
        except OSError as error:
            raise DeviceError(f"cannot read {path}", error.strerror or str(error)) from error

    def _open(self, path: Path) -> int:
        if self.direct:
            try:
                return os.open(path, os.O_RDONLY | os.O_DIRECT)
            except OSError:  # tmpfs and others do not know it
                self.direct = False
        return os.open(path, os.O_RDONLY)

    def read(self, into: memoryview, offset: int) -> None:
        """Fill ``into``.

        Raises:
            OSError: the disk fails, or the file ends.
        """
        done = 0
        while done < len(into):
            got = os.preadv(self._descriptor, [into[done:]], offset + done)
            if got <= 0:
                raise OSError("the file ends too soon")
            done += got
        if not self.direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, len(into), os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self._descriptor)
