"""A conversation: sound in, sound and text out, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .codec import Codec
from .dialogue import Dialogue

_MARK = "▁"  # how SentencePiece writes a space


@dataclass(frozen=True)
class Reply:
    """One frame of the answer.

    Attributes:
        sound: (frame,) float32. text: what was said with it, if a word or a part of one was.
        token: the text token.
    """

    sound: np.ndarray
    text: str
    token: int


class Conversation:
    """Codec and language model together.

    Args:
        codec: both directions. dialogue: the loop around the language model.
        pieces: text of each token; None: text is not told.
        silent: text tokens that say nothing: padding, and its end.
    """

    def __init__(
        self,
        codec: Codec,
        dialogue: Dialogue,
        pieces: Sequence[str] | None = None,
        silent: Sequence[int] = (),
    ) -> None:
        self.codec, self.dialogue = codec, dialogue
        self._pieces, self._silent = pieces, frozenset(silent)

    @property
    def frame(self) -> int:
        """Samples in a frame."""
        return self.codec.frame

    def begin(self, sound: np.ndarray) -> None:
        """Begin a conversation with one frame (frame,), which is not answered.

        The model never sees the user's first semantic code, so the first frame only fills that
        place. The codec forgets it: what follows is encoded as a beginning, as officially.
        """
        self.codec.reset()
        self.dialogue.reset()
        codes = self.codec.encode(sound)
        self.codec.reset()
        self.dialogue.step(codes[: self.dialogue.layout.heard])

    def hear(self, sound: np.ndarray) -> Reply | None:
        """One frame (frame,) of the user's sound; the answer's frame, or None at the beginning."""
        codes = self.codec.encode(sound)
        said = self.dialogue.step(codes[: self.dialogue.layout.heard])
        if said is None:
            return None
        codes = np.zeros(self.codec.codebooks, np.int32)
        codes[: len(said.codes)] = said.codes
        return Reply(self.codec.decode(codes), self._text(said.text), said.text)

    def _text(self, token: int) -> str:
        if self._pieces is None or token in self._silent or not 0 <= token < len(self._pieces):
            return ""
        return self._pieces[token].replace(_MARK, " ")

    def state(self) -> dict[str, Any]:
        """All that the next frame depends on, for :meth:`restore`."""
        return {"codec": self.codec.state(), "dialogue": self.dialogue.state()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from there."""
        self.codec.restore(saved["codec"])
        self.dialogue.restore(saved["dialogue"])
