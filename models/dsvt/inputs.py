"""What the split graph takes: names, example shapes, and which sizes vary. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

from ..spec import InputSpec
from .config import MERGES, POINT_GROUP, DSVTConfig

_FEATURES = 11

# Of an example sweep; any other will do, since all of these vary.
_GROUPS, _MERGED, _VOXELS, _SETS = 2000, 64, 1000, 64
_SITES = (8000, 5000, 2500)  # of each stage of the map

# The most that a graph must be ready for. Runtimes that plan their memory ahead (ExecuTorch)
# reserve address space for it, so these are what a dense 360 degree sweep can need, twice.
MOST_GROUPS, MOST_VOXELS, MOST_SETS = 1 << 18, 1 << 16, 1 << 13
MOST_MERGED, MOST_CROWDS, MOST_PARTS = 1 << 16, 1 << 8, 1 << 9
# Rows for empty cells, by how near the border is: up to 10 cells at the third stage.
MOST_KINDS = 21**2

Sizes = dict[int, tuple[int, int]]


def input_names(config: DSVTConfig) -> list[str]:
    """The inputs' names in call order."""
    return [spec.name for spec, _ in described(config)]


def described(config: DSVTConfig) -> Iterator[tuple[InputSpec, Sizes]]:
    """Every input with the axes of it that vary.

    ``points`` (G, g, 11) are features of points in groups that share a voxel; ``merge_k`` and
    ``voxel_rows`` say how groups become voxels; ``sets``, ``slots``, ``cells`` of a stage and
    a shift are as in :class:`.transformer.Partition`; ``pool`` of a stage says how its voxels
    become the next one's; ``taps``, ``middles`` and ``map_rows`` are as in
    :func:`edgekit.runtimes.map_sites.map_inputs`.
    """
    groups, merged, voxels = (1, MOST_GROUPS), (1, MOST_MERGED), (1, MOST_VOXELS)
    yield InputSpec("points", "float32", (_GROUPS, POINT_GROUP, _FEATURES)), {0: groups}
    for level, size in enumerate(MERGES):
        rows = _VOXELS if level == 0 else _MERGED
        yield InputSpec(f"merge_{level}", "int64", (rows, size)), {0: merged}
    last = InputSpec(f"merge_{len(MERGES)}", "int64", (2, 2))
    yield last, {0: (1, MOST_CROWDS), 1: (1, MOST_PARTS)}
    yield InputSpec("voxel_rows", "int64", (_VOXELS,)), {0: voxels}
    sets = (1, MOST_SETS)
    for stage in range(config.stages):
        for shift in range(2):
            tail = f"{stage}_{shift}"
            yield InputSpec(f"sets_{tail}", "int64", (2, _SETS, config.set_size)), {1: sets}
            yield InputSpec(f"slots_{tail}", "int64", (2, _VOXELS)), {1: voxels}
            yield InputSpec(f"cells_{tail}", "int64", (_VOXELS, 3)), {0: voxels}
        if stage < len(config.z_strides):
            pool = InputSpec(f"pool_{stage}", "int64", (_VOXELS, config.z_strides[stage]))
            yield pool, {0: voxels}
    yield from _of_the_map(config)


def _of_the_map(config: DSVTConfig) -> Iterator[tuple[InputSpec, Sizes]]:
    shape, block = config.grid[:2], 0
    stages = zip(config.map_strides, config.upsample, strict=True)
    for stage, (strides, factor) in enumerate(stages):
        for stride in strides:
            shape = tuple(-(-side // stride) for side in shape)
            rows = (1, shape[0] * shape[1] + MOST_KINDS)
            for layer in range(2):
                yield InputSpec(f"taps_{block}_{layer}", "int64", (_SITES[stage], 9)), {0: rows}
            yield InputSpec(f"middles_{block}", "int64", (_SITES[stage],)), {0: rows}
            block += 1
        cells = shape[0] * shape[1] * max(round(factor), 1) ** 2
        yield InputSpec(f"map_rows_{stage}", "int64", (cells,)), {}
