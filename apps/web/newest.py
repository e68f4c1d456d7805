"""A bounded queue: whoever comes late finds the newest, and knows how much has gone."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Newest(Generic[Item]):
    """A queue that keeps the newest ``size`` things; for one event loop.

    Attributes:
        dropped: how many were too old.
    """

    def __init__(self, size: int) -> None:
        self._held: deque[Item] = deque()
        self._size, self._there = size, asyncio.Event()
        self.dropped = 0

    def put(self, item: Item) -> None:
        """Add the newest; the oldest goes if there is no room."""
        if len(self._held) == self._size:
            self._held.popleft()
            self.dropped += 1
        self._held.append(item)
        self._there.set()

    def clear(self) -> None:
        """Forget all of them."""
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)

    async def get(self) -> Item:
        """The oldest that is kept, when there is one."""
        while not self._held:
            self._there.clear()
            await self._there.wait()
        return self._held.popleft()
