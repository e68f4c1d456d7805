"""What a detector that is told what to look for answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from . import drawing, pictures
from .detection import DetectionResult

_MOST_PIXELS = 20  # of the letters of the remark
_OPACITY = 96  # of 255


@dataclass(frozen=True, eq=False)
class PromptedResult(DetectionResult):
    """What was found, best first; says so where the weights are random.

    Attributes:
        weights: where the weights came from, in words.
        masks: one boolean (height, width) for each detection, or none at all.
    """

    weights: str = ""
    masks: tuple[np.ndarray, ...] = ()

    @property
    def remark(self) -> str:
        """What a reader must know of the answer; nothing where the weights were trained."""
        random = self.weights.startswith("random")
        return "random weights: these boxes mean nothing" if random else ""

    def to_json(self) -> dict[str, Any]:
        """As of every detection, and ``weights``; with masks, each one's ``area`` in pixels."""
        document = super().to_json() | {"weights": self.weights}
        for one, mask in zip(document["detections"], self.masks, strict=False):
            one["area"] = int(mask.sum())
        return document

    def describe(self) -> str:
        """As of every detection, after the remark."""
        return "\n".join(line for line in (self.remark, super().describe()) if line)

    def draw(self, picture: pictures.Picture) -> Image.Image:
        """A copy of the picture with outlines, boxes, labels and the remark.

        Raises:
            InputError: it is no picture, or one of another size.
        """
        return self.finish_drawing(super().draw(self.draw_outlines(picture)))

    def draw_outlines(self, picture: pictures.Picture) -> Image.Image:
        """A copy of the picture with what was outlined in the colour of its class.

        Raises:
            InputError: it is no picture.
        """
        image = pictures.decode(picture).copy()
        if (image.height, image.width) == self.size:
            for one, mask in zip(self.detections, self.masks, strict=False):
                tint = Image.new("RGB", image.size, drawing.colour(one.index))
                image.paste(tint, mask=Image.fromarray(mask.astype(np.uint8) * _OPACITY))
        return image

    def finish_drawing(self, drawn: Image.Image) -> Image.Image:
        """``drawn`` itself, with the remark at its lower edge if there is one."""
        if self.remark:
            write_below(drawn, self.remark)
        return drawn


def write_below(image: Image.Image, text: str) -> None:
    """Write a line at the lower edge of a picture, as large as fits in."""
    size = min(max(image.width // 24, 8), _MOST_PIXELS)
    font = ImageFont.load_default(size)
    pen = ImageDraw.Draw(image)
    height = size + size // 2
    pen.rectangle((0, image.height - height, image.width, image.height), fill=(0, 0, 0))
    pen.text((size // 2, image.height - height // 2), text, (255, 255, 255), font, anchor="lm")
