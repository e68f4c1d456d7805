"""The centre head: at each cell how likely an object's centre is there, and its box."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import DSVTConfig

EPS = 1e-3
SHARED = 64
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
    """``dense_head`` of the Waymo detectors."""

    outputs = ("scores", "boxes", "iou")

    def __init__(self, config: DSVTConfig, inputs: int) -> None:
        super().__init__()
        self.config = config
        self.shared_conv = nn.Sequential(
            nn.Conv2d(inputs, SHARED, 3, padding=1, bias=False),
            nn.BatchNorm2d(SHARED, eps=EPS),
            nn.ReLU(),
        )
        self.heads_list = nn.ModuleList([SeparateHead(OUTPUTS | {"hm": len(config.labels)})])

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Each output as its convolutions give it, (1, channels, height, width)."""
        shared = self.shared_conv(x)
        return {name: part(shared) for name, part in self.heads_list[0].named_children()}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Per cell, row by row: scores, boxes, and how well the box is thought to fit.

        Returns:
            (H*W, classes) probabilities of a centre; (H*W, 8) x, y, z of the centre, length,
            width, height in metres, cosine and sine of the heading (times whatever length);
            (H*W, 1) the expected overlap, from -1 to 1.
        """
        maps = self.maps(x)
        flat = {name: value.flatten(2)[0].transpose(0, 1) for name, value in maps.items()}
        centre = (flat["center"] + _cells(x.shape[2], x.shape[3])) * torch.tensor(
            self.config.voxel_size[:2]
        )
        centre = centre + torch.tensor(self.config.point_range[:2])
        boxes = torch.cat([centre, flat["center_z"], flat["dim"].exp(), flat["rot"]], dim=1)
        return F.sigmoid(flat["hm"]), boxes, flat["iou"]


def _cells(height: int, width: int) -> Tensor:
    """(H*W, 2): column and row of each cell."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], dim=1).to(torch.float32)
