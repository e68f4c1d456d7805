"""A DSVT detector, with the two graphs that it deploys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import partition
from .bev import UP_WIDTH, BEVBackbone, to_map
from .center_head import CenterHead
from .config import DSVTConfig
from .inputs import input_names
from .transformer import Partition, Stage, Transformer
from .transfusion_head import TransFusionHead
from .voxel_features import VoxelFeatures, grouped_maximum, scattered_maximum

_HEADS = {"center": CenterHead, "transfusion": TransFusionHead}


class DSVT(nn.Module):
    """Points or partitioned voxels in, boxes out; suppression of doubles is left to the caller.

    Args:
        config: one of :data:`.config.CONFIGS`.
    """

    def __init__(self, config: DSVTConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("global_step", torch.zeros(1, dtype=torch.int64))
        self.vfe = VoxelFeatures(config.width)
        self.backbone_3d = Transformer(config)
        self.backbone_2d = BEVBackbone(config.width, config.upsample)
        self.dense_head = _HEADS[config.head](config, UP_WIDTH * len(config.upsample))

    def forward(self, points: Tensor) -> tuple[Tensor, ...]:
        """The whole way: points (P, 5) to what the head gives for every cell or query."""
        voxels = partition.voxelise(points, self.config)
        features = partition.point_features(points, voxels, self.config)
        x = self.vfe(features, scattered_maximum(voxels.point, voxels.number.shape[0]))
        stages, last = partition.stages(voxels.number, self.config)
        rows = partition.map_rows(last, self.config.grid)
        return self.detect(self.backbone_3d(x, stages), rows)

    def split(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The same from what :mod:`edgekit.runtimes.partition` prepares.

        Args:
            inputs: in the order of :func:`.inputs.input_names`.
        """
        given = dict(zip(input_names(self.config), inputs, strict=True))
        merges = [given[name] for name in given if name.startswith("merge_")]
        x = self.vfe(given["points"], grouped_maximum(merges, given["voxel_rows"]))
        stages = [self._stage(given, stage) for stage in range(self.config.stages)]
        return self.detect(self.backbone_3d(x, stages), given["map_rows"])

    def detect(self, x: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        """From features of pillars (N, C) to what the head gives."""
        width, height, _ = self.config.grid
        return self.dense_head(self.backbone_2d(to_map(x, rows, (height, width))))

    def _stage(self, given: dict[str, Tensor], stage: int) -> Stage:
        parts = tuple(
            Partition(*(given[f"{name}_{stage}_{shift}"] for name in ("sets", "slots", "cells")))
            for shift in range(2)
        )
        return Stage(parts, given.get(f"pool_{stage}"))
