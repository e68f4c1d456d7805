"""The vocal branch: the quartet through quaternion convolutions to one embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import VocalConfig
from .quaternion import QuaternionConv2d


class QuaternionBlock(nn.Module):
    """Convolution with a stride, then one that adds to its input; both normalised."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.down = QuaternionConv2d(inputs, outputs, 3, stride)
        self.down_norm = nn.BatchNorm2d(outputs)
        self.mix = QuaternionConv2d(outputs, outputs, 3)
        self.mix_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.down_norm(self.down(x)))
        return x + torch.relu(self.mix_norm(self.mix(x)))


class AttentiveStatistics(nn.Module):
    """Mean and deviation over time, each moment weighted by what it holds (Okabe et al., 2018).

    (batch, channels, time) to (batch, 2 channels).
    """

    def __init__(self, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Conv1d(channels, hidden, 1), nn.Tanh(), nn.Conv1d(hidden, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = self.score(x).softmax(dim=-1)
        mean = (weight * x).sum(-1)
        centred = x - mean[..., None]
        deviation = ((weight * centred * centred).sum(-1) + 1e-5).sqrt()
        return torch.cat([mean, deviation], dim=-1)


class VocalEncoder(nn.Module):
    """Quartet (batch, 4, bands, frames) to (batch, embedding).

    What is left of the bands is joined by one linear map: where on the frequency axis something
    happens says who speaks and how, which a mean over it would lose.
    """

    def __init__(self, config: VocalConfig, embedding: int) -> None:
        super().__init__()
        steps = zip((4, *config.widths[:-1]), config.widths, config.strides, strict=True)
        self.blocks = nn.Sequential(*(QuaternionBlock(*step) for step in steps))
        rows, last = config.front_end.bands, config.widths[-1]
        for stride, _ in config.strides:
            rows = -(-rows // stride)
        self.join = nn.Sequential(nn.Conv1d(rows * last, last, 1), nn.BatchNorm1d(last), nn.ReLU())
        self.pool = AttentiveStatistics(last)
        self.norm = nn.BatchNorm1d(2 * last)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(2 * last, embedding)

    def summary(self, quartet: Tensor) -> Tensor:
        """What the branch holds of an utterance: (batch, 2 * the last width)."""
        maps = self.blocks(quartet).flatten(1, 2)
        return self.norm(self.pool(self.join(maps)))

    def embed(self, summary: Tensor) -> Tensor:
        """The embedding (batch, embedding) of :meth:`summary`."""
        return self.project(self.dropout(summary))

    def forward(self, quartet: Tensor) -> Tensor:
        return self.embed(self.summary(quartet))
