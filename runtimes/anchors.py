"""RetinaNet's anchors: the boxes that a dense detector corrects (arXiv:1708.02002).

Places, sizes and order are those of MMDetection's AnchorGenerator (center_offset 0, the base
size of a level is its stride): its checkpoints mean these boxes and no others.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def level_sizes(size: tuple[int, int], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """(rows, columns) of each level's feature map for a picture of ``size`` (height, width)."""
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in strides]


def level_counts(size: tuple[int, int], strides: tuple[int, ...], per_place: int) -> list[int]:
    """How many anchors each level has, with ``per_place`` of them at each place."""
    return [rows * columns * per_place for rows, columns in level_sizes(size, strides)]


def base_anchors(
    stride: int, octave_base_scale: float, scales_per_octave: int, ratios: tuple[float, ...]
) -> np.ndarray:
    """The anchors at a level's first place, around (0, 0).

    Args:
        octave_base_scale: side of the smallest square anchor, in strides.
        scales_per_octave: sides grow by 2^(1 / scales_per_octave) up to below the double.
        ratios: height / width.

    Returns:
        (ratios * scales, 4) float32 corners: for each ratio each scale.
    """
    scales = np.array(
        [octave_base_scale * 2 ** (i / scales_per_octave) for i in range(scales_per_octave)]
    )
    tall = np.sqrt(np.array(ratios, float))[:, None]
    half = stride * scales / 2
    width, height = (half / tall).ravel(), (half * tall).ravel()
    return np.stack([-width, -height, width, height], axis=1).astype(np.float32)


@lru_cache(maxsize=8)  # a camera has one size; photographs in a folder have a few
def grid_anchors(
    size: tuple[int, int],
    strides: tuple[int, ...] = (8, 16, 32, 64, 128),
    octave_base_scale: float = 4.0,
    scales_per_octave: int = 3,
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
) -> np.ndarray:
    """All anchors of a picture of ``size`` (height, width) in pixels.

    Returns:
        (A, 4) float32 corners, read-only because they are remembered: level after level in
        the order of ``strides``; in a level row after row, column after column; at each
        place those of :func:`base_anchors`. They may reach outside of the picture.
    """
    levels = []
    for stride, (rows, columns) in zip(strides, level_sizes(size, strides), strict=True):
        here = base_anchors(stride, octave_base_scale, scales_per_octave, ratios)
        x = np.arange(columns, dtype=np.float32) * stride
        y = np.arange(rows, dtype=np.float32) * stride
        places = np.empty((rows, columns, 1, 4), np.float32)
        places[..., 0], places[..., 1] = x[:, None], y[:, None, None]
        places[..., 2:] = places[..., :2]
        levels.append((places + here).reshape(-1, 4))
    anchors = np.concatenate(levels)
    anchors.flags.writeable = False
    return anchors
