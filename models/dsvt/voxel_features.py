"""Voxel features from points: two linear layers with a maximum over the points of a voxel.

The second layer's input is a point's vector beside its voxel's maximum m. Its weight is
split accordingly, W [x; m] = A x + B m, and the maximum over points is taken of A x alone:
B m is the same for all points of a voxel, and ReLU keeps the order. So nothing of a voxel
has to be handed back to its points.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-3
FEATURES = 11  # five columns, offset from the points' mean, offset from the voxel's centre

Reduce = Callable[[Tensor], Tensor]


class PFNLayer(nn.Module):
    """Linear, batch norm (its scale and shift as one weight and bias), ReLU left to the caller."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs, eps=EPS)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (outputs, inputs) and bias (outputs,) with the batch norm in them."""
        scale = self.norm.weight * torch.rsqrt(self.norm.running_var + EPS)
        weight = self.linear.weight * scale[:, None]
        return weight, self.norm.bias - self.norm.running_mean * scale


class VoxelFeatures(nn.Module):
    """The dynamic pillar or voxel feature encoder (``vfe`` in checkpoints).

    Args:
        width: of the voxel features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.pfn_layers = nn.ModuleList([PFNLayer(FEATURES, half), PFNLayer(width, width)])

    def forward(self, points: Tensor, maximum: Reduce) -> Tensor:
        """Voxel features (N, width).

        Args:
            points: (..., 11) features of points.
            maximum: from (..., C) values of points to (N, C), the maximum over each voxel.
        """
        first, second = (layer.folded() for layer in self.pfn_layers)
        x = F.relu(F.linear(points, *first))
        most = maximum(x)
        weight, bias = second
        own, shared = weight.split(x.shape[-1], dim=1)
        return F.relu(maximum(F.linear(x, own)) + F.linear(most, shared, bias))


def grouped_maximum(merges: list[Tensor], rows: Tensor) -> Reduce:
    """The maximum over voxels, in gathers and dense maxima alone.

    Points come in groups (G, g, C). Each table of ``merges`` (M, k) names rows of the level
    before it, whose maximum is one row of the next; ``rows`` (N,) names each voxel's row
    among those of all tables.
    """

    def maximum(values: Tensor) -> Tensor:
        level = values.amax(1)
        levels = []
        for table in merges:
            picked = level.index_select(0, table.reshape(-1))
            level = picked.view(table.shape[0], table.shape[1], values.shape[-1]).amax(1)
            levels.append(level)
        return torch.cat(levels).index_select(0, rows)

    return maximum


def scattered_maximum(voxel: Tensor, count: int) -> Reduce:
    """The maximum over voxels by scattering.

    Args:
        voxel: (P,) each point's voxel; ``count`` for points that belong to none.
        count: voxels.
    """

    def maximum(values: Tensor) -> Tensor:
        # Finite: an infinity times a zero weight would be NaN on its way through a runtime.
        least = torch.full((count + 1, values.shape[1]), -1e30, dtype=values.dtype)
        index = voxel[:, None].expand(-1, values.shape[1])
        return least.scatter_reduce(0, index, values, "amax")[:count]

    return maximum
