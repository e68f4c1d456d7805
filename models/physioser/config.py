"""What is chosen about PhysioSER; everything in here is a **decision** of ours unless it says so.

The paper fixes (abstract): two branches, the quartet {M, rho, f_inst, tau_g} as a quaternion, a
quaternion encoder, a frozen speech network, a contrastive alignment, an attention that fuses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

COMPONENTS = ("M", "rho", "f_inst", "tau_g")
"""The quartet, in order."""

#: EmoDB's seven, in the order of its letters W, L, E, A, F, T, N.
EMOTIONS = ("anger", "boredom", "disgust", "fear", "happiness", "sadness", "neutral")


@dataclass(frozen=True)
class FrontEndConfig:
    """The transform and the bands.

    Attributes:
        rate: samples a second. window, hop, size: of the transform, in samples (25 ms, 10 ms).
        bands: on the mel scale, from ``lowest`` to ``highest`` Hz.
        floor: energy of a band below which it is noise.
        limit: of the derivatives.
    """

    rate: int = 16_000
    window: int = 400
    hop: int = 160
    size: int = 512
    bands: int = 64
    lowest: float = 60.0
    highest: float = 7600.0
    floor: float = 1e-3
    limit: float = 4.0


@dataclass(frozen=True)
class VocalConfig:
    """The quaternion encoder: a block for each width, its stride in (frequency, time)."""

    widths: tuple[int, ...] = (32, 48, 64, 96)
    strides: tuple[tuple[int, int], ...] = ((2, 2), (2, 2), (2, 1), (2, 1))
    dropout: float = 0.3
    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)


@dataclass(frozen=True)
class PhysioSERConfig:
    """The whole network.

    Attributes:
        components: of the quartet that the vocal branch gets; the others are zero.
        vocal: the vocal branch; None for the latent one alone, to compare with.
        speech: kind of the frozen network (see :mod:`.speech`); None for the vocal branch alone.
        embedding: width that both branches share.
        classes: how many emotions are told apart.
    """

    components: tuple[str, ...] = COMPONENTS
    vocal: VocalConfig | None = field(default_factory=VocalConfig)
    speech: str | None = "whisper"
    embedding: int = 128
    latent_dropout: float = 0.5
    classes: int = len(EMOTIONS)


WHISPER_TINY: Final[dict[str, Any]] = {
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "num_mel_bins": 80,
}
