"""The latent branch: what a frozen speech network's layers hold of an utterance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .config import PhysioSERConfig


class LatentBranch(nn.Module):
    """Mean and deviation over time of every layer, standardised and projected.

    (batch, samples) to (batch, embedding).
    """

    def __init__(self, config: PhysioSERConfig, speech: nn.Module) -> None:
        super().__init__()
        self.speech = speech.requires_grad_(False)
        size = 2 * speech.layers * speech.width
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))
        self.dropout = nn.Dropout(config.latent_dropout)
        self.project = nn.Linear(size, config.embedding)

    def train(self, mode: bool = True) -> LatentBranch:
        """The speech network is frozen: it stays in eval mode."""
        super().train(mode)
        self.speech.eval()
        return self

    def statistics(self, waveform: Tensor) -> Tensor:
        """What of an utterance never changes in training, and so is cached: (batch, size)."""
        return statistics_of(self.speech(waveform))

    def embed(self, statistics: Tensor) -> Tensor:
        """The embedding (batch, embedding) of :meth:`statistics`."""
        return self.project(self.dropout((statistics - self.mean) / self.deviation))

    def forward(self, waveform: Tensor) -> Tensor:
        return self.embed(self.statistics(waveform))


def statistics_of(layers: Sequence[Tensor]) -> Tensor:
    """Mean and deviation over time of each layer (batch, time, width), side by side."""
    found = []
    for layer in layers:
        mean = layer.mean(dim=1)
        centred = layer - mean[:, None]
        found += [mean, (centred * centred).mean(dim=1).clamp(min=1e-12).sqrt()]
    return torch.cat(found, dim=-1)
