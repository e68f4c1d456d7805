"""Frames, as they come, to a moving picture in a file."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from edgekit.errors import InputError, UsageError

from .clips import import_av

VIDEO: Final = ".mp4"
SUFFIXES: Final = (VIDEO, ".gif", ".webp")
_MOST_PARTS: Final = 1001  # of a second's frames, as in 30000/1001


def write_clip(path: Path, frames: Iterator[Image.Image], rate: float, suffix: str) -> None:
    """Write a moving picture.

    Args:
        frames: RGB, of one size. rate: of them a second.
        suffix: what to write: ``.mp4`` (H.264, needs PyAV), ``.gif`` or ``.webp``.

    Raises:
        UsageError: frames are of different sizes, or too small for a video.
        InputError: there is no frame.
        MissingBackendError: PyAV is not here.
    """
    first = next(frames, None)
    if first is None:
        raise InputError("there is nothing to write", "the clip has no frames")
    rest = _alike(first, frames)
    if suffix == VIDEO:
        with path.open("wb") as file:
            _write_video(file, first, rest, rate)
        return
    first.save(
        path,
        format=suffix.removeprefix(".").upper(),
        save_all=True,
        append_images=rest,
        duration=round(1000 / rate),
        loop=0,
    )


def _alike(first: Image.Image, frames: Iterator[Image.Image]) -> Iterator[Image.Image]:
    for number, frame in enumerate(frames, 1):
        if frame.size != first.size:
            raise UsageError(
                "these frames make no one clip",
                f"frame 0 has {first.width}x{first.height} pixels, frame {number} "
                f"{frame.width}x{frame.height}",
                "give -o a name that ends in .json",
            )
        yield frame


def _write_video(file: Any, first: Image.Image, rest: Iterator[Image.Image], rate: float) -> None:
    av = import_av()
    # Colours are stored for every second pixel: sides are even, so one line may be cut.
    width, height = (side // 2 * 2 for side in first.size)
    if not width or not height:
        raise UsageError("a video has at least 2x2 pixels", f"the frames have {first.size}")
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(_MOST_PARTS))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in chain((first,), rest):
            pixels = np.ascontiguousarray(np.asarray(picture)[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
