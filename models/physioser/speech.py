"""Frozen speech networks of transformers, behind one interface: a waveform in, layers out.

Whisper's encoder sees 30 seconds, padded with silence. Here it sees what there is: the first of
its position embeddings, which are sinusoids, and no silence. On two seconds that takes a
fifteenth of the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.errors import MissingBackendError, UsageError
from edgekit.quiet import quiet

from .front_end import FourierFrames, constant, hann, pool_bins

KINDS = ("whisper", "wav2vec2", "hubert", "wavlm")


def speech_network(kind: str, settings: Mapping[str, Any]) -> nn.Module:
    """A speech network with random weights.

    Args:
        kind: one of :data:`KINDS`. settings: of its configuration in transformers.

    Raises:
        UsageError: there is no such kind. MissingBackendError: transformers is not here.
    """
    if kind not in KINDS:
        raise UsageError(f"no speech network {kind}", f"there are {', '.join(KINDS)}")
    transformers = _transformers()
    if kind == "whisper":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        config = transformers.WhisperConfig(**settings)
        return WhisperLayers(WhisperEncoder(config))
    name = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}[kind]
    config = getattr(transformers, f"{name}Config")(**settings)
    return WaveformLayers(getattr(transformers, f"{name}Model")(config))


def _transformers() -> Any:
    from ..sources.vision_operators import declare_vision_operators

    declare_vision_operators()  # transformers imports torchvision where it is
    try:
        with quiet(stderr=True):
            import transformers
    except ImportError as error:
        raise MissingBackendError(
            "transformers is not installed",
            "the latent branch is one of its networks",
            'pip install "edgekit-toolkit[hf]"',
        ) from error
    return transformers


class LogMel(nn.Module):
    """Whisper's own log-mel spectrum: (batch, samples) to (batch, bands, samples / 160)."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.frames = FourierFrames(hann(_WINDOW)[None], _WINDOW, _HOP)
        self.register_buffer("filters", constant(slaney_bands(bands)), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        padded = nn.functional.pad(waveform[:, None], (_WINDOW // 2,) * 2, mode="reflect")[:, 0]
        real, imaginary = self.frames(padded)[:, 0, :, :, : waveform.shape[-1] // _HOP].unbind(1)
        energy = pool_bins(real * real + imaginary * imaginary, self.filters)
        # Whisper bounds the energy by 1e-10, which in half precision is zero: of silence there
        # would be no number left. Bounding the logarithm is the same, and is there in any.
        logs = (energy.log() / math.log(10)).clamp(min=-10)
        return (torch.maximum(logs, logs.amax(dim=(1, 2), keepdim=True) - 8) + 4) / 4


class WhisperLayers(nn.Module):
    """Whisper's encoder: (batch, samples) to a list of layers (batch, samples / 320, width).

    Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022, section 2.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.log_mel = LogMel(encoder.config.num_mel_bins)

    @property
    def width(self) -> int:
        """Of a layer's features."""
        return self.encoder.config.d_model

    @property
    def layers(self) -> int:
        """How many are given back."""
        return self.encoder.config.encoder_layers

    def forward(self, waveform: Tensor) -> list[Tensor]:
        encoder = self.encoder
        x = nn.functional.gelu(encoder.conv1(self.log_mel(waveform)))
        x = nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        found = []
        for layer in encoder.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
            found.append(x)
        return found


class WaveformLayers(nn.Module):
    """wav2vec 2.0, HuBERT or WavLM: (batch, samples) to a list of layers (batch, frames, width)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def width(self) -> int:
        """Of a layer's features."""
        return self.network.config.hidden_size

    @property
    def layers(self) -> int:
        """How many are given back."""
        return self.network.config.num_hidden_layers

    def forward(self, waveform: Tensor) -> list[Tensor]:
        mean = waveform.mean(dim=-1, keepdim=True)
        centred = waveform - mean
        deviation = ((centred * centred).mean(dim=-1, keepdim=True) + 1e-7).sqrt()
        found = self.network(centred / deviation, output_hidden_states=True)
        return list(found.hidden_states[1:])


_WINDOW, _HOP, _RATE = 400, 160, 16_000  # of Whisper


def slaney_bands(count: int) -> np.ndarray:
    """Whisper's triangular bands, (count, bins): Slaney's mel scale, each of the same area.

    Linear below 1 kHz and logarithmic above (Slaney, Auditory Toolbox, 1998).
    """
    step = math.log(6.4) / 27
    mel = np.linspace(0, 15 + math.log(_RATE / 2 / 1000) / step, count + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (mel - 15)))
    bins = np.arange(_WINDOW // 2 + 1) * _RATE / _WINDOW
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    return np.maximum(weights, 0) * 2 / (right - left)
