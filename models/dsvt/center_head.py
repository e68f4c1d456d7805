"""The centre head: at each cell how likely an object's centre is there, and its box."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bev import joined
from .config import DSVTConfig
from .map_sites import folded
from .partition import floor_divide

EPS = 1e-3
SHARED = 64
CANDIDATES = 500
REACH = 2  # cells around a place that two 3x3 convolutions look at
# Channels of each output, in the order of the official head.
OUTPUTS = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "iou": 1}


class SeparateHead(nn.Module):
    """One small convolutional network for each output.

    Args:
        outputs: channels by name.
    """

    def __init__(self, outputs: dict[str, int]) -> None:
        super().__init__()
        for name, channels in outputs.items():
            hidden = nn.Sequential(
                nn.Conv2d(SHARED, SHARED, 3, padding=1, bias=False),
                nn.BatchNorm2d(SHARED, eps=EPS),
                nn.ReLU(),
            )
            last = nn.Conv2d(SHARED, channels, 3, padding=1)
            self.add_module(name, nn.Sequential(hidden, last))


class CenterHead(nn.Module):
    """``dense_head`` of the Waymo detectors.

    The official code evaluates every output in every cell, and then looks at the best 500
    alone. Here the heat map picks those first, and the other outputs are evaluated there.
    """

    outputs = ("scores", "boxes", "iou", "classes", "cells")

    def __init__(self, config: DSVTConfig, inputs: int) -> None:
        super().__init__()
        self.config = config
        self.shared_conv = nn.Sequential(
            nn.Conv2d(inputs, SHARED, 3, padding=1, bias=False),
            nn.BatchNorm2d(SHARED, eps=EPS),
            nn.ReLU(),
        )
        self.heads_list = nn.ModuleList([SeparateHead(OUTPUTS | {"hm": len(config.labels)})])

    def shared(self, maps: list[Tensor]) -> Tensor:
        """(1, SHARED, height, width): what all outputs are made of."""
        return F.relu(joined(maps, *folded(*self.shared_conv[:2])))

    def maps(self, shared: Tensor) -> dict[str, Tensor]:
        """Each output in every cell, (1, channels, height, width), as the official code has it."""
        return {name: part(shared) for name, part in self.heads_list[0].named_children()}

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        """The best pairs of a cell and a class, best first.

        Returns:
            scores (Q, 1), the probability of a centre; boxes (Q, 8): x, y, z of the centre,
            length, width, height in metres, cosine and sine of the heading (times whatever
            length); iou (Q, 1), the expected overlap, from -1 to 1; classes and cells (Q,).
        """
        shared = self.shared(maps)
        height, width = shared.shape[2:]
        logits, index = self.heads_list[0].hm(shared).flatten().topk(CANDIDATES)
        classes = floor_divide(index, height * width)
        cells = index - classes * (height * width)
        y = floor_divide(cells, width)
        x = cells - y * width
        found = self._at(*_patches(shared, y, x))
        place = torch.stack([x, y], dim=1).to(torch.float32)
        size = torch.tensor(self.config.voxel_size[:2])
        centre = (found["center"] + place) * size + torch.tensor(self.config.point_range[:2])
        boxes = torch.cat([centre, found["center_z"], found["dim"].exp(), found["rot"]], dim=1)
        return F.sigmoid(logits)[:, None], boxes, found["iou"], classes, cells

    def _at(self, patches: Tensor, inside: Tensor) -> dict[str, Tensor]:
        """Each output but the heat map (Q, channels) in the middle of patches (Q, C, 5, 5)."""
        parts = [getattr(self.heads_list[0], name) for name in OUTPUTS]
        weights, biases = zip(*(folded(*part[0][:2]) for part in parts), strict=True)
        hidden = F.relu(F.conv2d(patches, torch.cat(weights), torch.cat(biases)))
        # Beyond the border the second convolution pads with zeros.
        hidden = hidden * inside[:, :, 1:4, 1:4]
        return {
            name: F.conv2d(
                hidden[:, number * SHARED : (number + 1) * SHARED], part[1].weight, part[1].bias
            ).flatten(1)
            for number, (name, part) in enumerate(zip(OUTPUTS, parts, strict=True))
        }


def _patches(x: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """The 5x5 cells around each place, zero beyond the border.

    Returns:
        (Q, C, 5, 5) of a map (1, C, H, W), and (Q, 1, 5, 5): 1 where there is a cell, else 0.
    """
    height, width = x.shape[2:]
    around = torch.arange(-REACH, REACH + 1)
    y, x_ = row[:, None, None] + around[:, None], column[:, None, None] + around
    inside = ((y >= 0) & (y < height) & (x_ >= 0) & (x_ < width)).to(torch.float32)[:, None]
    index = y.clamp(0, height - 1) * width + x_.clamp(0, width - 1)
    cells = x.flatten(2)[0].index_select(1, index.reshape(-1))
    return cells.view(x.shape[1], *index.shape).transpose(0, 1) * inside, inside
