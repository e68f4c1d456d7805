"""What the ranks of a cluster say to one another, whatever carries it.

The engine knows this protocol alone: a rank of one speaks to nobody (:class:`Alone`), others over
sockets. Everything is summed in place, so that a token allocates nothing.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Collective(Protocol):
    """The ranks of one cluster, as one of them sees it.

    Attributes:
        rank: This rank, from 0 (the hub).
        size: How many ranks there are.
    """

    rank: int
    size: int

    def all_reduce(self, values: np.ndarray) -> None:
        """Sum over all ranks, in place; ``values`` is float32 and C-contiguous, of any shape."""

    def broadcast(self, values: np.ndarray) -> None:
        """Rank 0's values on every rank, in place; of any plain dtype, C-contiguous."""


class Alone:
    """A cluster of one."""

    rank = 0
    size = 1

    def all_reduce(self, values: np.ndarray) -> None:
        """The sum over one rank is there already."""

    def broadcast(self, values: np.ndarray) -> None:
        """Rank 0 is this rank."""
