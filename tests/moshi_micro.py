"""A Moshi small enough to export in seconds, with all its parts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.manifest import TaskInfo
from edgekit.models.moshi.build import VOCABULARY, Moshi
from edgekit.models.moshi.config import LanguageConfig, MimiConfig, TransformerConfig
from edgekit.models.moshi.entries import (
    CODEC_KIND,
    DIALOGUE_KIND,
    codec_graphs,
    codec_params,
    dialogue_params,
    language_graphs,
)
from edgekit.models.moshi.language import LanguageModel
from edgekit.models.moshi.mimi import Mimi
from edgekit.models.spec import LoadedModel

from .moshi_golden import fill
from .once import exported_once

CODEC = MimiConfig(
    2,
    8,
    TransformerConfig(8, 1, 2, 16, 8, "layer_norm", False, "rope", layer_scale=True),
    4,
    16,
    4,
    codebooks=3,
)
LANGUAGE = LanguageConfig(
    TransformerConfig(16, 1, 2, 24, 6, "rms_norm_f32", True, "rope"),
    TransformerConfig(8, 1, 2, 12, 3, "rms_norm_f32", True, "none"),
    streams=6,
    generated=3,
    audio_cards=16,
    text_cards=12,
    delays=(0, 0, 1, 1, 0, 1, 1),
)
PIECES = ("<end>", "<start>", "<x>", "<pad>", *(f"▁word{number}" for number in range(8)))


def micro_codec() -> LoadedModel:
    """The codec alone, with hashed weights."""
    with torch.no_grad():
        network = fill(Mimi(CODEC)).eval()
    return LoadedModel(
        name="micro-mimi",
        source="micro-mimi",
        module=network,
        graphs=codec_graphs(CODEC),
        weights="hashed",
        task=TaskInfo(kind=CODEC_KIND, params=codec_params(CODEC)),
    )


def micro_moshi() -> LoadedModel:
    """All four graphs, with hashed weights and a vocabulary."""
    with torch.no_grad():
        network = fill(Moshi(Mimi(CODEC), LanguageModel(LANGUAGE))).eval()
    return LoadedModel(
        name="micro-moshi",
        source="micro-moshi",
        module=network,
        graphs=(*codec_graphs(CODEC), *language_graphs(LANGUAGE)),
        weights="hashed",
        task=TaskInfo(kind=DIALOGUE_KIND, params=dialogue_params(LANGUAGE, CODEC)),
        assets={VOCABULARY: "".join(f"{piece}\n" for piece in PIECES).encode()},
    )


def tone(seconds: float, pitch: float = 150.0, rate: int = 24_000) -> np.ndarray:
    """A vowel-like sound."""
    time = np.arange(round(seconds * rate)) / rate
    glide = 2 * np.pi * pitch * (time + 0.02 * np.sin(2 * np.pi * 3 * time))
    return (0.1 * sum(np.sin(n * glide) / n for n in range(1, 12))).astype(np.float32)


@pytest.fixture(scope="session")
def codec_bundle(tmp_path_factory) -> Path:
    """The small codec on ONNX Runtime."""
    return _exported(tmp_path_factory, micro_codec)


@pytest.fixture(scope="session")
def dialogue_bundle(tmp_path_factory) -> Path:
    """The small Moshi on ONNX Runtime."""
    return _exported(tmp_path_factory, micro_moshi)


def _exported(factory, make) -> Path:
    from edgekit.export import export

    def write(out: Path) -> None:
        export(make(), ["onnx"], out, report=False).raise_for_status()

    return exported_once(factory, make.__name__, write)


__all__ = ["CODEC", "LANGUAGE", "PIECES", "codec_bundle", "dialogue_bundle", "tone"]
