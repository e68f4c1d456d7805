"""From features of pillars to a map seen from above, and a residual network over it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .map_sites import BlockSites, MapSites, convolved, folded, with_zero

EPS = 1e-3

WIDTHS = (128, 128, 256)
UP_WIDTH = 128


def to_map(x: Tensor, rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """(1, C, height, width): each cell gets its row's features.

    Args:
        x: (N, C). rows: (height * width,) the row of each cell.
        shape: height (y) and width (x).
    """
    # Channels last in memory, as convolutions like them: no transposition is made.
    return x.index_select(0, rows).view(1, *shape, x.shape[1]).permute(0, 3, 1, 2)


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

    def at(self, x: Tensor, sites: BlockSites) -> Tensor:
        """The same for rows of a map (N, inputs) in which a zero row is first.

        Returns:
            (1 + M, outputs), a zero row first.
        """
        out = F.relu(convolved(x, sites.inner, self.conv1, self.bn1))
        out = convolved(with_zero(out), sites.outer, self.conv2, self.bn2)
        if self.downsample_layer is not None:
            weight, bias = folded(*self.downsample_layer)
            x = F.linear(x, weight.flatten(1), bias)
        return with_zero(F.relu(out + x.index_select(0, sites.middles)))


class BEVBackbone(nn.Module):
    """Three stages, whose maps are brought to one size and joined (``backbone_2d``).

    Args:
        inputs: channels of the map. upsample: per stage; below 1 a convolution shrinks.
        strides: per stage, that of each block.
    """

    def __init__(
        self, inputs: int, upsample: tuple[float, ...], strides: tuple[tuple[int, ...], ...]
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        for width, own, factor in zip(WIDTHS, strides, upsample, strict=True):
            # The first block of each stage changes the width or the stride.
            first = BasicBlock(inputs, width, own[0], projected=True)
            rest = [BasicBlock(width, width, stride, projected=False) for stride in own[1:]]
            self.blocks.append(nn.Sequential(first, *rest))
            self.deblocks.append(
                nn.Sequential(
                    _resampling(width, factor), nn.BatchNorm2d(UP_WIDTH, eps=EPS), nn.ReLU()
                )
            )
            inputs = width

    def forward(self, x: Tensor) -> list[Tensor]:
        """Three maps (1, 128, height, width) at the first factor's resolution, of (1, C, h, w)."""
        maps = []
        for block, deblock in zip(self.blocks, self.deblocks, strict=True):
            x = block(x)
            maps.append(deblock(x))
        return maps

    def sparse(self, x: Tensor, sites: MapSites, shape: tuple[int, int]) -> list[Tensor]:
        """The same from pillars (N, C), computed only where they have a say.

        Args:
            sites: which rows its blocks compute. shape: height and width of the map.
        """
        x, number, maps = with_zero(x), 0, []
        first = self.upsample[0]
        joined = (round(shape[0] * first), round(shape[1] * first))
        for stage, blocks in enumerate(self.blocks):
            for block in blocks:
                x = block.at(x, sites.blocks[number])
                number += 1
            rows, deblock, factor = sites.rows[stage], self.deblocks[stage], self.upsample[stage]
            if factor < 1:
                maps.append(deblock(to_map(x, rows, shape)))
            else:
                maps.append(to_map(_unfolded(x, *deblock[:2], round(factor)), rows, joined))
        return maps


def _unfolded(x: Tensor, conv: nn.ConvTranspose2d, norm: nn.BatchNorm2d, size: int) -> Tensor:
    """(N * size * size, UP_WIDTH): the cells that a transposed convolution makes of each row.

    Its kernel is as large as its stride, so that cells do not overlap: a matrix product.
    """
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = (conv.weight * scale[:, None, None]).permute(2, 3, 1, 0)
    bias = (norm.bias - norm.running_mean * scale).repeat(size * size)
    cells = F.linear(x, weight.reshape(-1, x.shape[1]), bias)
    return F.relu(cells).view(-1, UP_WIDTH)


def _resampling(width: int, factor: float) -> nn.Module:
    if factor >= 1:
        size = round(factor)
        return nn.ConvTranspose2d(width, UP_WIDTH, size, size, bias=False)
    size = round(1 / factor)
    return nn.Conv2d(width, UP_WIDTH, size, size, bias=False)


def joined(maps: list[Tensor], weight: Tensor, bias: Tensor, transposed: bool = False) -> Tensor:
    """A 3x3 convolution (padding 1) over maps as if they were one, without copying them into it.

    Args:
        maps: each (1, C, H, W). weight: (outputs, all channels, 3, 3).
        transposed: the weight is for maps with x before y.
    """
    weight = weight.transpose(2, 3) if transposed else weight
    start, total = 0, None
    for one in maps:
        own = weight[:, start : start + one.shape[1]]
        part = F.conv2d(one, own, None if start else bias, padding=1)
        total = part if total is None else total + part
        start += one.shape[1]
    return total
