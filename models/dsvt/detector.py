"""A DSVT detector, with the two graphs that it deploys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import partition
from .bev import UP_WIDTH, BEVBackbone
from .center_head import CenterHead
from .config import DSVTConfig
from .inputs import input_names
from .map_sites import BlockSites, MapSites, map_sites
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
        self.backbone_2d = BEVBackbone(config.width, config.upsample, config.map_strides)
        self.dense_head = _HEADS[config.head](config, UP_WIDTH * len(config.upsample))

    def forward(self, points: Tensor) -> tuple[Tensor, ...]:
        """The whole way: points (P, 5) to what the head gives for every cell or query."""
        voxels = partition.voxelise(points, self.config)
        features = partition.point_features(points, voxels, self.config)
        x = self.vfe(features, scattered_maximum(voxels.point, voxels.number.shape[0]))
        stages, last = partition.stages(voxels.number, self.config)
        rows = partition.map_rows(last, self.config.grid)
        strides, upsample = self.config.map_strides, self.config.upsample
        sites = map_sites(rows, last.shape[0], self.shape, strides, upsample)
        return self.detect(self.backbone_3d(x, stages), sites)

    def split(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The same from what :mod:`edgekit.runtimes.partition` prepares.

        Args:
            inputs: in the order of :func:`.inputs.input_names`.
        """
        given = dict(zip(input_names(self.config), inputs, strict=True))
        merges = [given[name] for name in given if name.startswith("merge_")]
        x = self.vfe(given["points"], grouped_maximum(merges, given["voxel_rows"]))
        stages = [self._stage(given, stage) for stage in range(self.config.stages)]
        return self.detect(self.backbone_3d(x, stages), self.sites(given))

    def detect(self, x: Tensor, sites: MapSites) -> tuple[Tensor, ...]:
        """From features of pillars (N, C) to what the head gives."""
        return self.dense_head(self.backbone_2d.sparse(x, sites, self.shape))

    @property
    def shape(self) -> tuple[int, int]:
        """Height (y) and width (x) of the map."""
        width, height, _ = self.config.grid
        return height, width

    def sites(self, given: dict[str, Tensor]) -> MapSites:
        """The rows of the map that are computed, from the split graph's inputs by name."""
        strides = self.config.map_strides
        blocks = tuple(
            BlockSites(*(given[name] for name in (f"taps_{b}_0", f"taps_{b}_1", f"middles_{b}")))
            for b in range(sum(map(len, strides)))
        )
        return MapSites(blocks, tuple(given[f"map_rows_{s}"] for s in range(len(strides))))

    def _stage(self, given: dict[str, Tensor], stage: int) -> Stage:
        parts = tuple(
            Partition(*(given[f"{name}_{stage}_{shift}"] for name in ("sets", "slots", "cells")))
            for shift in range(2)
        )
        return Stage(parts, given.get(f"pool_{stage}"))
