"""A PhysioSER small enough to export in seconds, with all its parts, and recordings to hear."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.models.physioser.config import (
    EMOTIONS,
    FrontEndConfig,
    PhysioSERConfig,
    VocalConfig,
)
from edgekit.models.physioser.entries import EXPLAIN, GRAPHS, TASK
from edgekit.models.physioser.network import PhysioSER
from edgekit.models.physioser.speech import speech_network
from edgekit.models.spec import LABELS, InputSpec, LoadedModel

from .once import exported_once

RATE = FrontEndConfig.rate
SAMPLES = RATE // 2
TINY = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "num_mel_bins": 16,
}


def micro_network(speech: bool = True) -> PhysioSER:
    """Seeded; its classifier is large enough that answers differ."""
    vocal = VocalConfig(widths=(8, 12), strides=((2, 2), (2, 1)))
    config = PhysioSERConfig(vocal=vocal, embedding=16, speech="whisper" if speech else None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PhysioSER(config, speech_network("whisper", TINY) if speech else None).eval()
        network.classifier.weight.data *= 4
        network.quartet.mean[0] = -3.0
    return network


def micro_emotion(speech: bool = True) -> LoadedModel:
    """Ready for export, with the graphs and the task of the registry but a shorter window."""
    waveform = (InputSpec("waveform", "float32", (1, SAMPLES)),)
    graphs = tuple(replace(one, inputs=waveform) for one in GRAPHS)
    return LoadedModel(
        name="micro-emotion",
        source="micro-emotion",
        module=micro_network(speech),
        graphs=graphs,
        weights="random (seed 0)",
        task=TASK.model_copy(update={"params": {**TASK.params, "step": 0.25}}),
        assets={LABELS: "".join(f"{name}\n" for name in EMOTIONS).encode()},
    )


def voice(seconds: float, pitch: float = 120.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Something like a vowel: harmonics that glide, under an envelope, over a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    glide = 2 * np.pi * pitch * (time + 0.02 * np.sin(2 * np.pi * 3 * time))
    tone = sum(np.sin(number * glide) / number for number in range(1, 20))
    sound = 0.2 * tone * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))
    return (sound + 0.003 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.fixture(scope="session")
def emotion_bundle(tmp_path_factory) -> Path:
    """The small network on ONNX Runtime and OpenVINO."""
    pytest.importorskip("transformers")
    from edgekit.export import export

    def write(out: Path) -> None:
        export(micro_emotion(), ["onnx", "openvino"], out, report=False).raise_for_status()

    return exported_once(tmp_path_factory, "micro_emotion", write)


__all__ = ["EXPLAIN", "RATE", "SAMPLES", "TINY", "emotion_bundle", "micro_emotion", "voice"]
