"""The sizes of Mimi and Moshi; nothing here needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

from edgekit.errors import UsageError

Cache = Literal["slice", "ring"]
"""How a graph gives back its keys and values: only what is new, which whoever runs it writes to
its slot of the ring; or the whole ring, with the slot written."""

CACHES: Final = ("slice", "ring")


@dataclass(frozen=True)
class TransformerConfig:
    """A stack of layers that look back over a window.

    Attributes:
        context: steps that attention sees, the present one included: the ring's length.
        norm: ``layer_norm``, or ``rms_norm_f32``, whose arithmetic is in fp32.
        gated: a SiLU gate in the feed-forward part; else GELU between two linear layers.
        feed_forward: its width as the official configuration has it; see :attr:`hidden`.
        positions: ``rope`` (interleaved pairs), ``sin`` (added to the input) or ``none``.
        layer_scale: whether each branch is scaled per channel.
    """

    width: int
    layers: int
    heads: int
    feed_forward: int
    context: int
    norm: Literal["layer_norm", "rms_norm_f32"]
    gated: bool
    positions: Literal["rope", "sin", "none"]
    layer_scale: bool = False
    max_period: float = 10_000.0

    @property
    def head_width(self) -> int:
        """Features of one head."""
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Width between the two linear layers: a gate takes two thirds, for as many weights."""
        return 2 * self.feed_forward // 3 if self.gated else self.feed_forward


@dataclass(frozen=True)
class MimiConfig:
    """The codec: 24 kHz sound to ``codebooks`` codes each 80 ms, and back.

    Attributes:
        filters: channels of the first convolution. ratios: strides of the decoder, in its order.
        latent: channels between the convolutions, and of the quantiser's input.
        transformer: of encoder and decoder, at twice the frame rate.
        code_width, code_count: features of a code, codes of a codebook.
        trained_codebooks: how many the checkpoint has; codebooks: how many are used, the first
            of them the semantic one.
    """

    filters: int
    latent: int
    transformer: TransformerConfig
    code_width: int
    code_count: int
    trained_codebooks: int
    codebooks: int = 8
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    kernel: int = 7
    last_kernel: int = 3
    residual_kernel: int = 3
    rate: int = 24_000

    @property
    def steps(self) -> int:
        """Steps of the transformers in one frame: the last resampling is by this much."""
        return 2

    @property
    def frame(self) -> int:
        """Samples in one frame."""
        return math.prod(self.ratios) * self.steps

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.rate / self.frame

    def __post_init__(self) -> None:
        _check_ring(self.transformer.context, self.steps)


@dataclass(frozen=True)
class LanguageConfig:
    """The language model: 17 streams of tokens in, text and the next own codes out.

    Attributes:
        streams: audio streams that are heard (own, then the user's); generated: own ones.
        audio_cards, text_cards: size of a codebook and of the vocabulary; one more is the
            token that stands before the beginning.
        delays: per stream, text first, by how many frames it lags.
        schedule: per generated codebook, which of the depth transformer's weights it uses;
            empty: each its own.
        low_rank: width of the depth transformer's embeddings before they are widened, or None.
    """

    temporal: TransformerConfig
    depth: TransformerConfig
    streams: int
    generated: int
    audio_cards: int
    text_cards: int
    delays: tuple[int, ...]
    schedule: tuple[int, ...] = ()
    low_rank: int | None = None
    text_padding: int = 3
    text_end_padding: int = 0

    @property
    def depth_weights(self) -> tuple[int, ...]:
        """Per generated codebook, the index of its weights."""
        return self.schedule or tuple(range(self.generated))


def _check_ring(context: int, steps: int) -> None:
    """Steps of one call lie side by side in the ring only where its length is a multiple."""
    if context % steps:
        raise UsageError(
            f"a context of {context} steps does not fit frames of {steps}",
            "a frame would be written across the end of the ring",
            f"take a multiple of {steps}",
        )


def _mimi_transformer(width: int, layers: int, heads: int, hidden: int, context: int):
    return TransformerConfig(
        width, layers, heads, hidden, context, "layer_norm", False, "rope", layer_scale=True
    )


MIMI: Final = MimiConfig(64, 512, _mimi_transformer(512, 8, 8, 2048, 250), 256, 2048, 32)
MIMI_TINY: Final = MimiConfig(4, 32, _mimi_transformer(32, 2, 4, 64, 20), 16, 64, 12)

# Text, own and the user's sound; of each the acoustic codes come a frame after the semantic one.
_DIALOGUE_DELAYS: Final = (0, *((0, *(1,) * 7) * 2))

MOSHI_7B: Final = LanguageConfig(
    TransformerConfig(4096, 32, 32, 16_896, 3000, "rms_norm_f32", True, "rope"),
    TransformerConfig(1024, 6, 16, 4224, 8, "rms_norm_f32", True, "none"),
    streams=16,
    generated=8,
    audio_cards=2048,
    text_cards=32_000,
    delays=_DIALOGUE_DELAYS,
)
MOSHI_TINY: Final = LanguageConfig(
    TransformerConfig(64, 3, 4, 264, 16, "rms_norm_f32", True, "rope"),
    TransformerConfig(32, 2, 4, 132, 8, "rms_norm_f32", True, "none"),
    streams=16,
    generated=8,
    audio_cards=64,
    text_cards=100,
    delays=_DIALOGUE_DELAYS,
)
# The official repository's test model: other norms, positions, delays, shared weights.
MOSHI_TESTLM: Final = LanguageConfig(
    TransformerConfig(16, 2, 1, 16, 4, "layer_norm", False, "sin"),
    TransformerConfig(16, 2, 1, 16, 3, "layer_norm", True, "sin"),
    streams=3,
    generated=3,
    audio_cards=32,
    text_cards=48,
    delays=(0, 1, 2, 4),
    schedule=(0, 1, 1),
    low_rank=8,
)

CODECS: Final = {"mimi": MIMI, "mimi-tiny": MIMI_TINY}
"""By their names in the registry."""

LANGUAGES: Final = {
    "moshi-7b": (MOSHI_7B, MIMI),
    "moshi-tiny": (MOSHI_TINY, MIMI_TINY),
    "moshi-testlm": (MOSHI_TESTLM, None),
}
"""Language model and codec by their names in the registry."""


def configs(name: str, layers: int | None = None) -> tuple[LanguageConfig, MimiConfig | None]:
    """The configurations of a name in :data:`LANGUAGES`.

    Args:
        layers: of the temporal transformer, if not all.
    """
    language, codec = LANGUAGES[name]
    if layers is not None:
        language = replace(language, temporal=replace(language.temporal, layers=layers))
    return language, codec
