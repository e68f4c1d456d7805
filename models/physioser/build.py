"""PhysioSER by name, for the registry and the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .config import COMPONENTS, EMOTIONS, WHISPER_TINY, PhysioSERConfig
from .network import PhysioSER
from .speech import speech_network

DEFAULT_SPEECH = {"kind": "whisper", "settings": WHISPER_TINY}


def build(
    branches: Literal["both", "vocal", "latent"] = "both",
    *,
    classes: int = len(EMOTIONS),
    speech: Mapping[str, Any] | None = None,
    components: Sequence[str] = COMPONENTS,
) -> PhysioSER:
    """PhysioSER with random weights, in eval mode.

    Args:
        branches: which it has. classes: how many emotions it tells apart.
        speech: ``{"kind", "settings"}`` of the frozen network (see :mod:`.speech`); None:
            Whisper tiny's encoder.
        components: of the quartet that the vocal branch gets.

    Raises:
        UsageError: there is no such speech network.
        MissingBackendError: transformers is not installed.
    """
    chosen = speech or DEFAULT_SPEECH
    config = PhysioSERConfig(
        components=tuple(components),
        speech=None if branches == "vocal" else chosen["kind"],
        classes=classes,
        **({"vocal": None} if branches == "latent" else {}),
    )
    network = None if branches == "vocal" else speech_network(chosen["kind"], chosen["settings"])
    return PhysioSER(config, network).eval()
