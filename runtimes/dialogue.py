"""The loop around Moshi's language model: delays, sampling, and what was said.

Each frame has 17 tokens: a piece of text, the own codes, the user's codes. Streams lag by their
delays, so that the acoustic codes of a frame are told after its semantic one. All NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edgekit.errors import InputError, ParityError

from .sessions.base import Session
from .streaming import StreamingSession


class Sampling(BaseModel):
    """How tokens are drawn. A temperature of 0 takes the likeliest; a ``top_k`` of 0 takes all.

    The defaults are those of the official PyTorch and web clients.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_temperature: Annotated[float, Field(ge=0, le=10)] = 0.7
    text_top_k: Annotated[int, Field(ge=0, le=1 << 20)] = 25
    audio_temperature: Annotated[float, Field(ge=0, le=10)] = 0.8
    audio_top_k: Annotated[int, Field(ge=0, le=1 << 20)] = 250
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0


GREEDY = Sampling(text_temperature=0.0, audio_temperature=0.0, text_top_k=0, audio_top_k=0)


@dataclass(frozen=True)
class Layout:
    """The streams of one frame.

    Attributes:
        generated: how many of the audio streams are the own ones.
        audio_cards, text_cards: sizes of a codebook and of the vocabulary; these numbers
            themselves stand for what was before the beginning.
        delays: per stream, text first, in frames.
    """

    generated: int
    audio_cards: int
    text_cards: int
    delays: tuple[int, ...]

    @property
    def heard(self) -> int:
        """How many streams are the user's."""
        return len(self.delays) - 1 - self.generated

    @property
    def lag(self) -> int:
        """Frames from when a frame is heard until its answer is whole."""
        return max(self.delays)


@dataclass(frozen=True)
class Said:
    """One frame of the answer: its text token and its codes (generated,) int32."""

    text: int
    codes: np.ndarray


@dataclass(frozen=True)
class Call:
    """What one call of the model was given and drew, for who looks inside.

    Attributes:
        tokens: (1 + streams,) that the model saw. text_logits, audio_logits: what it gave.
        text: the drawn text token. codes: (generated,) drawn, still delayed.
    """

    tokens: np.ndarray
    text_logits: np.ndarray
    audio_logits: np.ndarray
    text: int
    codes: np.ndarray


class Dialogue:
    """The language model in conversation, one call for each frame of the user's sound.

    Args:
        temporal: from all tokens of a frame to what follows. depth: from that to the own codes.
        layout: of the streams. sampling: how tokens are drawn.

    Attributes:
        last: what the last call was given and drew.
    """

    def __init__(
        self,
        temporal: StreamingSession,
        depth: Session,
        layout: Layout,
        sampling: Sampling = Sampling(),  # noqa: B008  it is frozen
    ) -> None:
        self.layout, self.sampling = layout, sampling
        self.last: Call | None = None
        self._temporal = temporal
        # A token is written at most `lag` frames before it is read.
        self._length = layout.lag + 2
        self._tokens = np.zeros((len(layout.delays), self._length), np.int32)
        self._before = np.full(len(layout.delays), layout.audio_cards, np.int32)
        self._before[0] = layout.text_cards
        self._delays = np.array(layout.delays)
        self._given = np.zeros((1, len(layout.delays), 1), np.int32)
        self._found = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in temporal.outputs}
        noise = np.zeros((layout.generated, layout.audio_cards), np.float32)
        self._deep = {
            "hidden": self._found["hidden"],
            "text_token": np.zeros((1, 1), np.int32),
            "noise": noise,
            "top_k": np.zeros(1, np.int32),
        }
        self._drawn = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in depth.outputs}
        self._run_depth = depth.bind(self._deep, self._drawn)
        self.reset()

    def reset(self) -> None:
        """Begin a new conversation, with the same seed."""
        self._temporal.reset()
        self._calls = 0
        self._random = np.random.Generator(np.random.PCG64(self.sampling.seed))
        self.last = None

    def step(self, heard: np.ndarray) -> Said | None:
        """One frame.

        Args:
            heard: the user's codes (heard,).

        Returns:
            the answer that is whole with it; None for the first ``lag`` frames.

        Raises:
            InputError: there are no such codes. ParityError: the model gives no numbers.
        """
        layout, now = self.layout, self._calls
        self._listen(heard)
        here = now % self._length
        begun = now > self._delays
        self._given[0, :, 0] = np.where(begun, self._tokens[:, here], self._before)
        self._temporal.step({"tokens": self._given}, self._found)
        text = self._draw_text()
        codes = self._draw_codes(text)
        self._calls = now + 1
        after = self._calls % self._length
        self._tokens[0, after] = text
        self._tokens[1 : 1 + layout.generated, after] = codes
        self.last = Call(
            self._given[0, :, 0].copy(),
            self._found["text_logits"].reshape(-1).copy(),
            self._drawn["audio_logits"][0].copy(),
            text,
            codes,
        )
        return self._whole()

    def _listen(self, heard: np.ndarray) -> None:
        layout = self.layout
        if heard.shape != (layout.heard,) or heard.dtype.kind not in "iu":
            raise InputError(
                "these are no codes of a frame", f"{layout.heard} integers are, not {heard.shape}"
            )
        if layout.heard and not 0 <= heard.min() <= heard.max() < layout.audio_cards:
            raise InputError("there is no such code", f"there are 0 to {layout.audio_cards - 1}")
        first = 1 + layout.generated
        for row, code in enumerate(heard, first):
            self._tokens[row, (self._calls + layout.delays[row]) % self._length] = code

    def _whole(self) -> Said | None:
        """The frame whose last token has been drawn now."""
        layout = self.layout
        start = self._calls - layout.lag
        if start <= 0:
            return None
        rows = np.arange(1 + layout.generated)
        found = self._tokens[rows, (start + self._delays[rows]) % self._length]
        return Said(int(found[0]), found[1:].copy())

    def _draw_text(self) -> int:
        sampling, logits = self.sampling, self._found["text_logits"].reshape(-1)
        if not np.isfinite(logits).all():
            raise ParityError("the model's text logits are not finite", "the artifact is broken")
        return draw(logits, sampling.text_temperature, sampling.text_top_k, self._random)

    def _draw_codes(self, text: int) -> np.ndarray:
        sampling, noise = self.sampling, self._deep["noise"]
        self._deep["text_token"][0, 0] = text
        self._deep["top_k"][0] = sampling.audio_top_k
        if sampling.audio_temperature:
            np.multiply(gumbel(self._random, noise.shape), sampling.audio_temperature, out=noise)
        else:
            noise.fill(0)
        self._run_depth()
        return self._drawn["audio_tokens"][0].copy()

    def state(self) -> dict[str, Any]:
        """All that the next call depends on, for :meth:`restore`."""
        return {
            "model": self._temporal.state(),
            "tokens": self._tokens.copy(),
            "calls": self._calls,
            "random": self._random.bit_generator.state,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._temporal.restore(saved["model"])
        np.copyto(self._tokens, saved["tokens"])
        self._calls = saved["calls"]
        self._random.bit_generator.state = saved["random"]


def gumbel(random: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Gumbel noise in fp32: the largest of logits with it added is a draw from their softmax."""
    uniform = random.random(shape, np.float32)
    # The generator gives 0, whose logarithm is none.
    np.maximum(uniform, np.finfo(np.float32).tiny, out=uniform)
    return -np.log(-np.log(uniform))


def draw(logits: np.ndarray, temperature: float, top_k: int, random: np.random.Generator) -> int:
    """A token from logits (cards,); see :class:`Sampling`."""
    if not temperature:
        return int(logits.argmax())
    scores = logits + temperature * gumbel(random, logits.shape)
    if 0 < top_k < len(logits):
        least = np.partition(logits, -top_k)[-top_k]
        scores = np.where(logits >= least, scores, -np.inf)
    return int(scores.argmax())
