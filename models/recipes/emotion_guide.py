"""The speech network as the teacher of a vocal branch that is deployed alone, while it learns.

Some hundred recordings are few to learn hearing from. So the vocal branch also learns to tell
what a speech network, trained on far more, holds of the same window. **Decision**: the paper
aligns the branches by contrast; this is for where there is one branch only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Guide(nn.Module):
    """Tells the principal components of the speech network's statistics from a summary.

    Args:
        width: of the vocal branch's summary.
        statistics: (windows, size) of the windows that are learnt from.
        components: how many are told at most. They keep the square root of their weight: the
            first ones matter most, but are not all.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, width: int, statistics: Tensor, components: int = 64) -> None:
        super().__init__()
        mean = statistics.mean(0)
        deviation = statistics.std(0).clamp(min=1e-3)
        standard = (statistics - mean) / deviation
        axes = torch.linalg.svd(standard, full_matrices=False).Vh[:components].T
        spread = (standard @ axes).std(0).clamp(min=1e-3).sqrt()
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes / deviation[:, None] / (spread * spread.mean()))
        self.tell = nn.Linear(width, axes.shape[1])

    def wanted(self, statistics: Tensor) -> Tensor:
        """What is to be told: (batch, components) of statistics (batch, size)."""
        return (statistics - self.mean) @ self.axes

    def forward(self, summary: Tensor, statistics: Tensor) -> Tensor:
        """The mean squared error of what a summary (batch, width) tells."""
        return nn.functional.mse_loss(self.tell(summary), self.wanted(statistics))
