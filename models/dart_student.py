"""A smaller backbone in place of SAM 3's: any that timm has, a CPUBone or a LowFormer.

Between it and the detector stand adapters, one a level of the feature pyramid: a 1x1
convolution to the pyramid's width, bilinear resizing to the level's grid, a 3x3 convolution (as
the DART project's README describes its students). :mod:`edgekit.models.recipes.distil_dart`
trains them to give what the frozen teacher's pyramid gives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.errors import UsageError

from .dart_graphs import DartSize

_TIMM = "timm:"
# No addresses: timm would fetch code or weights from what looks like one.
_NAME = re.compile(r"(timm:)?[A-Za-z0-9][A-Za-z0-9_.\-]*")
_SCALES = (4, 2, 1)  # of the pyramid's levels, times the token grid
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Student(nn.Module):
    """A backbone with adapters, which gives the levels of the pyramid.

    Args:
        backbone: from a picture to feature maps, the finest first.
        channels, strides: of those maps. size: of the detector.
        mean, std: what the backbone takes its pictures with, per channel.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        strides: Sequence[int],
        size: DartSize,
        mean: Sequence[float] = _IMAGENET[0],
        std: Sequence[float] = _IMAGENET[1],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.grid = size.grid
        # Each level takes the map whose stride is nearest to its own.
        self.sources = [
            min(range(len(strides)), key=lambda i, s=scale: abs(strides[i] - size.patch / s))
            for scale in _SCALES
        ]
        self.adapters = nn.ModuleList(
            Adapter(channels[source], size.width) for source in self.sources
        )
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """Levels of the pyramid.

        Args:
            image: (N, 3, H, W), normalised as SAM 3 takes it. levels: 0, 1, 2 are 4, 2 and 1
                times the token grid.
        """
        pixels = image * 0.5 + 0.5
        maps = self.backbone((pixels - self.mean) / self.std)
        maps = list(maps.values()) if isinstance(maps, dict) else list(maps)
        rows, columns = self.grid
        return [
            self.adapters[level](
                maps[self.sources[level]], (rows * _SCALES[level], columns * _SCALES[level])
            )
            for level in levels
        ]


class Adapter(nn.Module):
    """One map of a backbone to one level of the pyramid."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(inputs, width, 1)
        self.smooth = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, inputs, h, w) to (N, width, *size)."""
        narrow = self.narrow(features)
        resized = functional.interpolate(narrow, size, mode="bilinear", align_corners=False)
        return self.smooth(resized)


def make_student(name: str, size: DartSize, pretrained: bool = False) -> Student:
    """A student with random weights.

    Args:
        name: ``timm:NAME``, or a CPUBone or LowFormer of the registry.
        size: of the detector. pretrained: have timm fetch its own weights.

    Raises:
        UsageError: there is no such backbone, or it gives no feature maps.
        MissingBackendError: timm is not installed.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no backbone", "", "write timm:NAME, or cpubone-nano")
    if name.startswith(_TIMM):
        return _from_timm(name.removeprefix(_TIMM), size, pretrained)
    from .heads import with_head
    from .registry import spec

    module = with_head(spec(name), "features").build()
    strides, channels = module.backbone.strides[1:], module.backbone.channels[1:]
    return Student(module, channels, strides, size)


def _from_timm(name: str, size: DartSize, pretrained: bool) -> Student:
    from .sources.timm_model import import_timm

    timm = import_timm()
    try:
        arguments: dict[str, Any] = {"features_only": True, "pretrained": pretrained}
        backbone = timm.create_model(name, **arguments)
    except Exception as error:  # timm raises nearly any for names and models of other kinds
        raise UsageError(
            f"timm gives no feature maps of {name}", f"{type(error).__name__}: {error}"
        ) from error
    info = backbone.feature_info
    config = timm.data.resolve_model_data_config(backbone)
    return Student(backbone, info.channels(), info.reduction(), size, config["mean"], config["std"])
