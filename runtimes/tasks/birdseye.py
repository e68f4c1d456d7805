"""A sweep seen from above, with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..rotated_boxes import footprints
from .drawing import colour

SIDE: Final = 1000  # pixels
_BACKGROUND: Final = (16, 18, 24)
_LOW, _HIGH = np.array([70, 110, 160]), np.array([255, 245, 200])
_HEIGHTS: Final = (-2.0, 3.0)  # metres over which points go from one colour to the other
_RINGS: Final = 20  # metres between circles
_TEXT: Final = 14


def draw(
    points: np.ndarray,
    reach: tuple[float, float, float, float],
    boxes: np.ndarray,
    classes: Sequence[int],
    legend: Sequence[tuple[str, int]],
) -> Image.Image:
    """An RGB picture; x (ahead) points up, y (left) to the left.

    Args:
        points: (P, 3 or more), finite. reach: least x and y shown, then greatest, in metres.
        boxes: (N, 7), each with a line from its middle to its front; the last lies on top.
        classes: of each box. legend: text and class of each line in the corner.
    """
    low, high = np.array(reach[:2]), np.array(reach[2:])
    scale = SIDE / float((high - low).max())
    height, width = np.ceil((high - low) * scale).astype(int)

    def pixels(places: np.ndarray) -> np.ndarray:
        return (high[::-1] - places[..., 1::-1]) * scale

    canvas = np.full((height, width, 3), _BACKGROUND, np.uint8)
    column, row = np.floor(pixels(points)).astype(int).T
    shown = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    order = np.flatnonzero(shown)[np.argsort(points[shown, 2], kind="stable")]
    share = np.interp(points[order, 2], _HEIGHTS, (0, 1))[:, None]
    canvas[row[order], column[order]] = (_LOW + share * (_HIGH - _LOW)).astype(np.uint8)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    _circles(pen, pixels(np.zeros(2)), scale, float(np.abs([low, high]).max()))
    outlines = pixels(footprints(boxes)) if len(boxes) else np.zeros((0, 4, 2))
    for outline, index in zip(outlines, classes, strict=True):
        tint = colour(index)
        pen.polygon([tuple(corner) for corner in outline], outline=tint, width=2)
        front = (outline[0] + outline[3]) / 2
        pen.line([tuple(outline.mean(0)), tuple(front)], fill=tint, width=2)
    font = ImageFont.load_default(_TEXT)
    for line, (text, index) in enumerate(legend):
        pen.text((8, 8 + line * (_TEXT + 4)), text, fill=colour(index), font=font)
    return picture


def _circles(pen: ImageDraw.ImageDraw, middle: np.ndarray, scale: float, reach: float) -> None:
    """Faint circles around the sensor, every 20 m."""
    x, y = middle
    for metres in range(_RINGS, int(reach) + 1, _RINGS):
        radius = metres * scale
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(48, 52, 62))
