"""The sparse voxel transformer: stages of blocks over sets, with pooling in between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import Block, Reduction
from .config import DSVTConfig

# A window of up to this many cells has its position embeddings as a table, which is folded
# into a constant. The largest windows of the voxel variant would need 14 MB for each.
LARGEST_TABLE = 2048


@dataclass(frozen=True)
class Partition:
    """How the voxels of one stage fall into sets, without and with shift.

    Attributes:
        sets: (2, S, K): the voxel in each slot, sorted along y and along x.
        slots: (2, N): a slot of each voxel. cells: (N, 3): x, y, z within its window.
    """

    sets: Tensor
    slots: Tensor
    cells: Tensor


@dataclass(frozen=True)
class Stage:
    """One stage's two partitions, and how its voxels are pooled into the next (or None)."""

    partitions: tuple[Partition, Partition]
    pool: Tensor | None = None


class PositionEmbedding(nn.Module):
    """A small network on a voxel's place within its window.

    Args:
        window: its size along x, y, z; where z is 1 only x and y are embedded.
        width: of the embedding.
    """

    def __init__(self, window: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.window = window
        axes = 2 if window[2] == 1 else 3
        self.position_embedding_head = nn.Sequential(
            nn.Linear(axes, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
        )
        self.axes = axes

    def forward(self, cells: Tensor) -> Tensor:
        """Embeddings (N, width) of cells (N, 3)."""
        x, y, z = self.window
        if x * y * z > LARGEST_TABLE:
            return self._embed(cells)
        places = torch.cartesian_prod(torch.arange(z), torch.arange(y), torch.arange(x))
        table = self._embed(places.flip(1))
        flat = (cells[:, 2] * y + cells[:, 1]) * x + cells[:, 0]
        return table.index_select(0, flat)

    def _embed(self, cells: Tensor) -> Tensor:
        half = torch.tensor([side / 2 for side in self.window[: self.axes]])
        return self.position_embedding_head(cells[:, : self.axes].to(torch.float32) - half)


class InputLayer(nn.Module):
    """The position embeddings, by stage, block and shift."""

    def __init__(self, config: DSVTConfig) -> None:
        super().__init__()
        self.posembed_layers = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleList(
                    PositionEmbedding(config.window_at(stage, shift), config.width)
                    for shift in range(2)
                )
                for _ in range(blocks)
            )
            for stage, blocks in enumerate(config.blocks)
        )


class Transformer(nn.Module):
    """From voxel features to features of pillars (``backbone_3d``).

    A block uses the partition of its number's parity, counted through all stages, but gives
    its second layer the embedding of the shifted partition in either case. The published
    weights were trained so, which is why it is kept.
    """

    def __init__(self, config: DSVTConfig) -> None:
        super().__init__()
        self.config = config
        self.input_layer = InputLayer(config)
        width, heads = config.width, config.heads
        for stage, blocks in enumerate(config.blocks):
            built = [Block(width, heads, config.hidden) for _ in range(blocks)]
            self.add_module(f"stage_{stage}", nn.ModuleList(built))
            norms = [nn.LayerNorm(width) for _ in range(blocks)]
            self.add_module(f"residual_norm_stage_{stage}", nn.ModuleList(norms))
            if stage < len(config.z_strides):
                pooling = Reduction(width, heads, config.z_strides[stage])
                self.add_module(f"stage_{stage}_reduction", pooling)

    def forward(self, x: Tensor, stages: list[Stage]) -> Tensor:
        """Features (N', C) of the last stage's voxels.

        Args:
            x: (N, C) voxel features. stages: how voxels fall into sets, stage by stage.
        """
        number = 0
        for index, stage in enumerate(stages):
            for block in range(self.config.blocks[index]):
                x = self.block(x, stage, index, block, number % 2)
                number += 1
            if stage.pool is not None:
                x = self.get_submodule(f"stage_{index}_reduction")(x, stage.pool)
        return x

    def block(self, x: Tensor, stage: Stage, index: int, block: int, shift: int) -> Tensor:
        """One block of stage ``index``, over the partition ``shift``."""
        embeddings = self.input_layer.posembed_layers[index][block]
        layers = self.get_submodule(f"stage_{index}")[block].encoder_list
        norm = self.get_submodule(f"residual_norm_stage_{index}")[block]
        own = stage.partitions[shift]
        out = x
        for number, (layer, embed) in enumerate(zip(layers, embeddings, strict=True)):
            position = embed(stage.partitions[number].cells)
            out = layer(out, position, own.sets[number], own.slots[number])
        return norm(out + x)
