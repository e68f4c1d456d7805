"""From features of pillars to a map seen from above, and a residual network over it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-3

WIDTHS = (128, 128, 256)
STRIDES = (1, 2, 2)
DEPTHS = (2, 3, 3)  # the first block of each changes the width or the stride
UP_WIDTH = 128


def to_map(x: Tensor, rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """(1, C, height, width): each cell gets its pillar's features, or zeros.

    Args:
        x: (N, C). rows: (height * width,) the pillar of each cell, N where there is none.
        shape: height (y) and width (x).
    """
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    cells = padded.index_select(0, rows)
    return cells.transpose(0, 1).reshape(1, x.shape[1], *shape)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual; a 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, projected: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs, eps=EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps=EPS)
        self.downsample_layer = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs, eps=EPS),
            )
            if projected
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """The same map, or one of another width and stride."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample_layer is None else self.downsample_layer(x)))


class BEVBackbone(nn.Module):
    """Three stages, whose maps are brought to one size and joined (``backbone_2d``).

    Args:
        inputs: channels of the map. upsample: per stage; below 1 a convolution shrinks.
    """

    def __init__(self, inputs: int, upsample: tuple[float, ...]) -> None:
        super().__init__()
        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        for width, stride, depth, factor in zip(WIDTHS, STRIDES, DEPTHS, upsample, strict=True):
            first = BasicBlock(inputs, width, stride, projected=True)
            rest = [BasicBlock(width, width, 1, projected=False) for _ in range(depth - 1)]
            self.blocks.append(nn.Sequential(first, *rest))
            self.deblocks.append(
                nn.Sequential(
                    _resampling(width, factor), nn.BatchNorm2d(UP_WIDTH, eps=EPS), nn.ReLU()
                )
            )
            inputs = width

    def forward(self, x: Tensor) -> Tensor:
        """(1, 384, height, width) at the first factor's resolution."""
        maps = []
        for block, deblock in zip(self.blocks, self.deblocks, strict=True):
            x = block(x)
            maps.append(deblock(x))
        return torch.cat(maps, dim=1)


def _resampling(width: int, factor: float) -> nn.Module:
    if factor >= 1:
        size = round(factor)
        return nn.ConvTranspose2d(width, UP_WIDTH, size, size, bias=False)
    size = round(1 / factor)
    return nn.Conv2d(width, UP_WIDTH, size, size, bias=False)
