"""Text from an engine: which token comes next, when to stop, and the text as it grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgekit.errors import UsageError

from .tokens import Stream, Tokens


class Predicts(Protocol):
    """What generating needs of an engine."""

    context: int
    position: int

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Take tokens in; logits of the last."""

    def decode(self, token: int) -> np.ndarray:
        """Take one token in; its logits."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    Attributes:
        temperature: Divides the logits; 0: the most likely token always.
        top_k: Only so many of the most likely tokens; 0: all.
        top_p: Only the most likely tokens that together have this probability.
        seed: The same seed gives the same text; None: a new one each time.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UsageError(
                "a token cannot be chosen so",
                f"temperature {self.temperature}, top-k {self.top_k}, top-p {self.top_p}",
            )


class Sampler:
    """Chooses tokens; keeps the state of its random numbers."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: np.ndarray) -> int:
        """The next token's id, from logits (vocabulary,)."""
        how = self.sampling
        if how.temperature == 0:
            return int(np.argmax(logits))
        order = np.argsort(-logits, kind="stable")
        if how.top_k:
            order = order[: how.top_k]
        scaled = logits[order].astype(np.float64) / how.temperature
        parts = np.exp(scaled - scaled[0])
        parts /= parts.sum()
        if how.top_p < 1:
            # The token that crosses the bound stays.
            keep = int(np.searchsorted(np.cumsum(parts), how.top_p)) + 1
            order, parts = order[:keep], parts[:keep] / parts[:keep].sum()
        return int(self._random.choice(order, p=parts))


def generate_ids(
    engine: Predicts,
    ids: Sequence[int],
    most: int,
    sampling: Sampling | None = None,
    stop: Sequence[int] = (),
) -> Iterator[int]:
    """Ids one by one, the stop id not among them.

    Args:
        engine: Rank 0's; ``ids`` follow what it holds.
        ids: The prompt.
        most: Tokens to generate at most; fewer where the context ends.
        sampling: Greedy by default.
        stop: Ids that end the text.
    """
    sampler = Sampler(sampling or Sampling())
    if most <= 0:
        return
    logits = engine.prefill(ids)
    for left in range(most - 1, -1, -1):
        token = sampler.choose(logits)
        if token in stop:
            return
        yield token
        if left == 0 or engine.position >= engine.context:
            return
        logits = engine.decode(token)


def generate(
    engine: Predicts,
    tokens: Tokens,
    ids: Sequence[int],
    most: int,
    sampling: Sampling | None = None,
    stop: Sequence[int] = (),
) -> Iterator[str]:
    """The text as it grows; arguments as for :func:`generate_ids`."""
    stream = Stream(tokens)
    for token in generate_ids(engine, ids, most, sampling, stop):
        if text := stream.add(token):
            yield text
    if text := stream.end():
        yield text
