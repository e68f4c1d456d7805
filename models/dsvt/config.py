"""The three published DSVT detectors, as numbers. Nothing here imports torch.

Wang et al.: "DSVT: Dynamic Sparse Voxel Transformer with Rotated Sets", CVPR 2023,
arXiv:2301.06051; the numbers are those of the official configuration files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Triple = tuple[int, int, int]

# Points that share a voxel are handed over in groups of this many (the last one is repeated);
# what is left to reduce is merged in steps, so that voxels with very many points work too.
POINT_GROUP = 4
MERGES = (8, 16)

# Of the map's residual network: each stage's blocks by their stride.
BLOCK_STRIDES = ((1, 1), (2, 1, 1), (2, 1, 1))


@dataclass(frozen=True)
class DSVTConfig:
    """What tells one detector from another. All triples are in the order x, y, z.

    Attributes:
        name: as in the registry. columns: what a point's five numbers are.
        point_range: x, y, z minimum and maximum in metres. voxel_size: in metres.
        width: of voxel features. hidden: of the feed-forward parts. heads: of attention.
        set_size: voxels a set. window: at the first stage, in voxels, without shift.
        window_factor: how much larger windows are in the shifted partition.
        shift: of that partition, in voxels.
        blocks: per stage. z_strides: between stages, how many voxels are pooled in z.
        upsample: of the three BEV stages' maps before they are joined.
        head: what reads the BEV map. labels: names of the classes.
        map_strides: each BEV stage's blocks by their stride.
    """

    name: str
    columns: tuple[str, ...]
    point_range: tuple[float, float, float, float, float, float]
    voxel_size: tuple[float, float, float]
    width: int
    hidden: int
    set_size: int
    window: Triple
    window_factor: Triple
    shift: Triple
    blocks: tuple[int, ...]
    z_strides: tuple[int, ...]
    upsample: tuple[float, ...]
    head: Literal["center", "transfusion"]
    labels: tuple[str, ...]
    heads: int = 8
    map_strides: tuple[tuple[int, ...], ...] = BLOCK_STRIDES

    @property
    def grid(self) -> Triple:
        """Voxels along x, y and z."""
        low, high = self.point_range[:3], self.point_range[3:]
        sides = zip(low, high, self.voxel_size, strict=True)
        return tuple(round((b - a) / size) for a, b, size in sides)

    @property
    def stages(self) -> int:
        """How many stages the transformer has."""
        return len(self.blocks)

    def grid_at(self, stage: int) -> Triple:
        """Voxels along x, y and z at a stage."""
        x, y, z = self.grid
        for stride in self.z_strides[:stage]:
            z = -(-z // stride)
        return x, y, z

    def window_at(self, stage: int, shift: int) -> Triple:
        """A window's size at a stage, without (0) or with (1) shift."""
        x, y, z = self.window
        window = (x, y, min(z, self.grid_at(stage)[2]))
        return tuple(
            side * (factor if shift else 1)
            for side, factor in zip(window, self.window_factor, strict=True)
        )

    def shift_at(self, stage: int, shift: int) -> Triple:
        """What is added to coordinates: nothing in z where the window covers the whole height."""
        if not shift:
            return 0, 0, 0
        covered = self.window_at(stage, shift)[2] == self.grid_at(stage)[2]
        return self.shift[0], self.shift[1], 0 if covered else self.shift[2]

    def windows_at(self, stage: int, shift: int) -> Triple:
        """How many windows there are along x, y and z."""
        sides = zip(self.grid_at(stage), self.window_at(stage, shift), strict=True)
        return tuple(-(-cells // window) + 1 for cells, window in sides)


_WAYMO = dict(
    columns=("x", "y", "z", "intensity", "elongation"),
    point_range=(-74.88, -74.88, -2.0, 74.88, 74.88, 4.0),
    width=192,
    hidden=384,
    window_factor=(2, 2, 1),
    shift=(6, 6, 0),
    upsample=(1, 2, 4),
    head="center",
    labels=("vehicle", "pedestrian", "cyclist"),
)

CONFIGS: dict[str, DSVTConfig] = {
    config.name: config
    for config in (
        DSVTConfig(
            name="waymo-pillar",
            voxel_size=(0.32, 0.32, 6.0),
            set_size=36,
            window=(12, 12, 1),
            blocks=(4,),
            z_strides=(),
            **_WAYMO,
        ),
        DSVTConfig(
            name="waymo-voxel",
            voxel_size=(0.32, 0.32, 0.1875),
            set_size=48,
            window=(12, 12, 32),
            blocks=(1, 1, 1, 1),
            z_strides=(4, 4, 2),
            **_WAYMO,
        ),
        DSVTConfig(
            name="nuscenes-pillar",
            columns=("x", "y", "z", "intensity", "timestamp"),
            point_range=(-54.0, -54.0, -5.0, 54.0, 54.0, 3.0),
            voxel_size=(0.3, 0.3, 8.0),
            width=128,
            hidden=256,
            set_size=90,
            window=(30, 30, 1),
            window_factor=(1, 1, 1),
            shift=(15, 15, 0),
            blocks=(4,),
            z_strides=(),
            upsample=(0.5, 1, 2),
            head="transfusion",
            labels=(
                "car",
                "truck",
                "construction vehicle",
                "bus",
                "trailer",
                "barrier",
                "motorcycle",
                "bicycle",
                "pedestrian",
                "traffic cone",
            ),
        ),
    )
}
"""The detectors by the names that the registry has them under, behind ``dsvt-``."""
