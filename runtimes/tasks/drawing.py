"""What was found, drawn into the picture: boxes with labels, coloured areas with a legend."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = Sequence[float]  # x1, y1, x2, y2
Colour = tuple[int, int, int]

# Hues a golden section of the circle apart: classes with near indices look different.
_GOLDEN: Final = (5**0.5 - 1) / 2
_OPACITY: Final = 0.5
_TEXT_SHARE: Final = 1 / 36  # of the picture's shorter side
_LEAST_TEXT, _MOST_TEXT = 10, 48  # pixels
_DARK, _LIGHT = (0, 0, 0), (255, 255, 255)


def colour(index: int) -> Colour:
    """The colour of a class: always the same, and unlike those of its neighbours."""
    red, green, blue = colorsys.hsv_to_rgb(
        index * _GOLDEN % 1, (0.9, 0.65)[index // 8 % 2], (0.95, 0.7)[index // 4 % 2]
    )
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever is easier to read on ``background``.

    By the relative luminance of WCAG 2: the two contrasts are equal at 0.179.
    """
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in background)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _DARK if luminance > 0.179 else _LIGHT


def draw_boxes(image: Image.Image, boxes: Iterable[tuple[Box, str, int]]) -> Image.Image:
    """A copy of an RGB picture with boxes, each with its text, in the colour of its class.

    Args:
        boxes: corners in pixels, text, index of the class; later ones lie on top.
    """
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    size = _text_size(image)
    font = ImageFont.load_default(size)
    line = max(size // 8, 2)
    for (x1, y1, x2, y2), text, index in boxes:
        tint = colour(index)
        # The last pixel of a box that ends at x2 is the one before it.
        right, bottom = max(x2 - 1, x1), max(y2 - 1, y1)
        pen.rectangle((x1, y1, right, bottom), outline=tint, width=line)
        height = size + 2 * line
        # On top of the box, or inside where there is no room above.
        top = y1 - height if y1 >= height else y1
        width = pen.textlength(text, font=font) + 2 * line
        left = max(min(x1, image.width - width), 0)
        _label(pen, (left, top, width, height), text, tint, font)
    return drawn


def draw_mask(
    image: Image.Image, mask: np.ndarray, legend: Sequence[tuple[str, int]]
) -> Image.Image:
    """An RGB picture half covered by the colours of a mask, with a legend in its corner.

    Args:
        mask: (height, width) class indices, of the picture's size.
        legend: text and index of the classes to name.
    """
    palette = np.array([colour(i) for i in range(int(mask.max(initial=0)) + 1)], np.uint8)
    drawn = Image.blend(image, Image.fromarray(palette[mask]), _OPACITY)
    pen = ImageDraw.Draw(drawn)
    size = _text_size(image)
    font = ImageFont.load_default(size)
    gap = max(size // 8, 2)
    width = max((pen.textlength(text, font=font) for text, _ in legend), default=0) + 2 * gap
    for row, (text, index) in enumerate(legend):
        place = (0, row * (size + 2 * gap), width, size + 2 * gap)
        _label(pen, place, text, colour(index), font)
    return drawn


def _label(
    pen: ImageDraw.ImageDraw, place: Box, text: str, tint: Colour, font: ImageFont.FreeTypeFont
) -> None:
    left, top, width, height = place
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=tint)
    middle = (left + width / 2, top + height / 2)
    pen.text(middle, text, fill=text_colour(tint), font=font, anchor="mm")


def _text_size(image: Image.Image) -> int:
    size = round(min(image.size) * _TEXT_SHARE)
    return min(max(size, _LEAST_TEXT), _MOST_TEXT)
