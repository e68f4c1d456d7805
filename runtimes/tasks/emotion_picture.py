"""The quartet over time with what was decided, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgekit.errors import UsageError

from .drawing import colour

if TYPE_CHECKING:
    from .speech_emotion import EmotionResult

_TITLES: Final = (
    ("M", "energy"),
    ("rho", "its rate of change"),
    ("f_inst", "instantaneous frequency"),
    ("tau_g", "group delay"),
)
_PIXELS_A_SECOND: Final = 200
_LEFT, _RIGHT, _ROW, _GAP, _TOP, _LINE = 172, 24, 128, 14, 44, 16
_WIDEST: Final = 4000  # pixels of time; a longer recording is drawn smaller
_SATURATED: Final = 3.0  # deviations

_INK, _PAPER, _MUTED = (24, 28, 36), (255, 255, 255), (110, 118, 130)
# Dark blue through white to dark red: zero is the component's mean.
_LOW, _MIDDLE, _HIGH = (33, 78, 140), (247, 247, 247), (170, 40, 45)


def draw(result: EmotionResult) -> Image.Image:
    """A row for each component, a row of its contributions, a row of chances.

    Raises:
        UsageError: the bundle does not explain its answers.
    """
    if not result.quartets:
        raise UsageError(
            "there is nothing to draw",
            "this bundle does not explain its answers",
            "give -o a name that ends in .json",
        )
    scale = min(1.0, _WIDEST / (result.seconds * _PIXELS_A_SECOND)) * _PIXELS_A_SECOND
    width = max(320, round(result.seconds * scale))
    chart = _LINE * (len(result.labels) + 1)
    height = _TOP + 4 * (_ROW + _GAP) + 2 * _LINE + chart + _GAP
    image = Image.new("RGB", (_LEFT + width + _RIGHT, height), _PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    _headline(pen, result)
    for row, (name, meaning) in enumerate(_TITLES):
        top = _TOP + row * (_ROW + _GAP)
        image.paste(_map(result, row, width, scale), (_LEFT, top))
        pen.text((8, top + 4), name, _INK, ImageFont.load_default(16))
        pen.text((8, top + 26), meaning, _MUTED, font)
        _share(pen, result, row, top + 52)
    top = _TOP + 4 * (_ROW + _GAP)
    _seconds(pen, result.seconds, width, scale, top)
    _chances(pen, result, scale, top + 2 * _LINE)
    return image


def _headline(pen: ImageDraw.ImageDraw, result: EmotionResult) -> None:
    best = max(result.chances)
    text = f"{result.emotion}  {100 * best:.0f} %"
    pen.text((8, 10), text, _INK, ImageFont.load_default(22))
    if result.driver is not None:
        left = 24 + pen.textlength(text, ImageFont.load_default(22))
        pen.text(
            (left, 17), f"{result.driver} speaks most for it", _MUTED, ImageFont.load_default(14)
        )


def _share(pen: ImageDraw.ImageDraw, result: EmotionResult, row: int, top: int) -> None:
    """How much the component raises the answer, on average: a bar and its number."""
    told = [one.contributions[row] for one in result.windows if one.contributions]
    if not told:
        return
    mean = float(np.mean(told))
    length = round(min(abs(mean), 1.0) * (_LEFT - 24))
    pen.rectangle((8, top, 8 + max(length, 1), top + 10), fill=_HIGH if mean > 0 else _LOW)
    pen.text((8, top + 14), f"{100 * mean:+.0f} points", _MUTED, ImageFont.load_default(12))


def _map(result: EmotionResult, row: int, width: int, scale: float) -> Image.Image:
    """One component of the whole recording: windows beside each other, later ones on top."""
    whole = Image.new("RGB", (width, _ROW), _PAPER)
    for window, quartet in zip(result.windows, result.quartets, strict=True):
        left, right = round(window.start * scale), round(window.end * scale)
        # A window that was repeated shows the recording once.
        heard = quartet.shape[-1]
        if len(result.windows) == 1:
            heard = max(1, round(heard * min(1.0, result.seconds / _length(result))))
        tile = _tint(quartet[row, ::-1, :heard])
        whole.paste(tile.resize((max(right - left, 1), _ROW), Image.Resampling.BILINEAR), (left, 0))
    return whole


def _length(result: EmotionResult) -> float:
    """Seconds of a window."""
    return max(one.end - one.start for one in result.windows)


def _tint(values: np.ndarray) -> Image.Image:
    share = np.clip(values.astype(np.float32) / _SATURATED, -1, 1)[..., None]
    middle = np.array(_MIDDLE, np.float32)
    ends = np.where(share < 0, np.array(_LOW, np.float32), np.array(_HIGH, np.float32))
    return Image.fromarray((middle + np.abs(share) * (ends - middle)).astype(np.uint8))


def _seconds(pen: ImageDraw.ImageDraw, seconds: float, width: int, scale: float, top: int) -> None:
    step = next((s for s in (0.5, 1, 2, 5, 10, 30, 60, 120, 300) if s * scale >= 60), 600)
    for tick in np.arange(0, seconds + 1e-6, step):
        x = _LEFT + min(round(tick * scale), width - 1)
        pen.line((x, top - _GAP + 2, x, top - _GAP + 7), fill=_MUTED)
        pen.text((x + 3, top - 6), f"{tick:g} s", _MUTED, ImageFont.load_default(12))


def _chances(pen: ImageDraw.ImageDraw, result: EmotionResult, scale: float, top: int) -> None:
    """A line for each emotion: how dark it is says how likely, at what time."""
    font = ImageFont.load_default(12)
    for index, label in enumerate(result.labels):
        y = top + index * _LINE
        pen.text((8, y), label, _INK, font)
        pen.text((_LEFT - 44, y), f"{100 * result.chances[index]:4.0f} %", _MUTED, font)
        tone = np.array(colour(index), np.float32)
        for window in result.windows:
            shade = 255 + window.chances[index] * (tone - 255)
            left, right = (_LEFT + round(one * scale) for one in (window.start, window.end))
            pen.rectangle((left, y + 2, right, y + _LINE - 3), fill=tuple(map(int, shade)))
