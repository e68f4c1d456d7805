"""Pictures as a camera hands them over, without compression: one of two ways to send them.

A browser whose GPU is emulated takes 90 ms to make a JPEG, and 3 to copy these 460 kB.

Content of a :attr:`~edgekit.apps.web.frames.Kind.PIXELS` message, little endian: a byte for the
layout, a byte of flags (1: all of 0..255 is used; 2: colours of BT.709, not of BT.601), two bytes
each for width and height, then the planes without gaps.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

import numpy as np

from edgekit.errors import InputError, MissingBackendError

_HEADER: Final = struct.Struct("<BBHH")
_FULL, _BT709 = 1, 2


class Layout(IntEnum):
    """How the planes lie, by the names of WebCodecs."""

    NV12 = 0
    I420 = 1
    RGBA = 2
    BGRA = 3


def unpack(content: bytes, most: int) -> np.ndarray:
    """The picture, uint8 (height, width, 3) RGB.

    Args:
        most: pixels that a picture may have.

    Raises:
        InputError: the layout is unknown, the picture is empty or too large, or the planes are
            not as long as they must be.
        MissingBackendError: PyAV, which knows the colours of cameras, is not here.
    """
    try:
        layout, flags, width, height = _HEADER.unpack_from(content)
        layout = Layout(layout)
    except (struct.error, ValueError):
        raise InputError("a picture of no known layout", f"{len(content)} bytes") from None
    if not 0 < width * height <= most:
        raise InputError(f"a frame of {width}x{height} cannot be", f"{most} pixels are the most")
    planes = np.frombuffer(content, np.uint8, offset=_HEADER.size)
    if layout in (Layout.RGBA, Layout.BGRA):
        pixels = _shaped(planes, (height, width, 4))
        order = (0, 1, 2) if layout is Layout.RGBA else (2, 1, 0)
        return np.ascontiguousarray(pixels[..., order])
    if width % 2 or height % 2:
        raise InputError(f"a frame of {width}x{height} cannot be", "its colours are of 2x2 pixels")
    return _from_yuv(_shaped(planes, (height * 3 // 2, width)), layout, flags)


def _shaped(planes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if planes.size != np.prod(shape):
        raise InputError("a frame is cut off", f"{planes.size} bytes of {np.prod(shape)}")
    return planes.reshape(shape)


def _from_yuv(planes: np.ndarray, layout: Layout, flags: int) -> np.ndarray:
    try:
        from av.video.frame import VideoFrame
        from av.video.reformatter import ColorRange, Colorspace
    except ImportError as error:
        raise MissingBackendError(
            "a camera's colours cannot be read", str(error), 'pip install "edgekit-toolkit[web]"'
        ) from error
    frame = VideoFrame.from_ndarray(planes, format=layout.name.lower().replace("i420", "yuv420p"))
    space = Colorspace.ITU709 if flags & _BT709 else Colorspace.ITU601
    spread = ColorRange.JPEG if flags & _FULL else ColorRange.MPEG
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=space,
        src_color_range=spread,
        dst_color_range=ColorRange.JPEG,
    )
    return rgb.to_ndarray()
