"""From a configuration to the networks of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from .config import CODECS, Cache, configs
from .language import LanguageModel
from .mimi import Mimi

VOCABULARY = "assets/vocabulary.txt"
"""Where a bundle keeps the text pieces, one a line; of official checkpoints beside the weights."""


class Moshi(nn.Module):
    """Codec and language model in one network, as one bundle deploys them.

    Its keys are the official ones of both, which have none in common.
    """

    def __init__(self, codec: Mimi | None, language: LanguageModel) -> None:
        super().__init__()
        parts = [part for part in (codec, language) if part is not None]
        for part in parts:
            for name, child in part.named_children():
                self.add_module(name, child)
        # Not as children, which would give every tensor a second key.
        self.__dict__["_parts"] = (codec, language)

    def encode(self, pcm: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`.mimi.Mimi.encode`."""
        return self._parts[0].encode(pcm, *state)

    def decode(self, codes: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`.mimi.Mimi.decode`."""
        return self._parts[0].decode(codes, *state)

    def temporal_step(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`.language.LanguageModel.temporal_step`."""
        return self._parts[1].temporal_step(tokens, *state)

    def depth_steps(
        self, hidden: Tensor, text_token: Tensor, noise: Tensor, top_k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`.language.LanguageModel.depth_steps`."""
        return self._parts[1].depth_steps(hidden, text_token, noise, top_k)

    @property
    def floating_modules(self) -> tuple[str, ...]:
        """The codec: in integers its codes would be others, and it is a hundredth of the bytes."""
        codec = self._parts[0]
        return tuple(name for name, _ in codec.named_children()) if codec is not None else ()

    def own_assets(self, checkpoint: Path | None) -> Mapping[str, bytes]:
        """The text vocabulary that lies beside an official checkpoint."""
        from .checkpoint import vocabulary

        found = vocabulary(checkpoint)
        return {VOCABULARY: found} if found is not None else {}


def build_codec(name: str = "mimi", cache: Cache = "slice", codebooks: int = 8) -> Mimi:
    """The codec with random weights.

    Args:
        codebooks: how many of the trained ones are used, the first of them the semantic one.
    """
    return Mimi(replace(CODECS[name], codebooks=codebooks), cache)


def build(name: str, cache: Cache = "slice", layers: int | None = None) -> Moshi:
    """Language model and codec with random weights.

    Args:
        layers: of the temporal transformer, if not all: for machines that do not hold them.
    """
    language, codec = configs(name, layers)
    return Moshi(Mimi(codec, cache) if codec else None, LanguageModel(language, cache))
