"""Pictures: decode any of them to RGB, resize and crop them as classifiers expect."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from PIL import (
    ExifTags,
    Image,
    ImageOps,
    # Pillow loads these readers only when it is asked for every one it has.
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from edgekit.errors import InputError

SUFFIXES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Pillow has readers that start other programs (EPS) or that hardly anybody tests.
_FORMATS: Final = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS: Final = 1 << 27  # 134 megapixels, 403 MB as RGB
RESAMPLING: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Picture = str | Path | bytes | Image.Image | np.ndarray


def decode(source: Picture) -> Image.Image:
    """The picture as 8-bit RGB, turned as its EXIF orientation says.

    Args:
        source: a file, its content, a Pillow image, or a uint8 array (height, width, 3).

    Returns:
        mode ``RGB``. Transparency is laid on white; 16-bit greys are scaled to 8 bits; of
        several frames the first is taken.

    Raises:
        InputError: it is no picture, is truncated, or has more than 134 megapixels.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise InputError(
                f"an array of {source.dtype} {list(source.shape)} is no picture",
                "uint8 (height, width, 3) is",
            )
        return Image.fromarray(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the picture")
    if isinstance(source, bytes):
        return _decode_stream(io.BytesIO(source), "the picture")
    try:
        with open(source, "rb") as stream:
            return _decode_stream(stream, str(source))
    except OSError as e:
        raise InputError(f"{source} cannot be read", e.strerror or str(e)) from e


def _decode_stream(stream: BinaryIO, name: str) -> Image.Image:
    # Pillow's decoders raise nearly any exception on malformed bytes, so all are taken.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities it can live with, and of its own limit
            with Image.open(stream, formats=_FORMATS) as image:
                return _to_rgb(image, name)
    except InputError:
        raise
    except Image.UnidentifiedImageError as e:
        raise InputError(
            f"{name} is no picture", "no known format", f"give one of {', '.join(_FORMATS)}"
        ) from e
    except Exception as e:
        raise InputError(f"{name} cannot be decoded", str(e) or type(e).__name__) from e


def resize(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """The picture in (height, width) pixels, antialiased when it shrinks."""
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), RESAMPLING[interpolation])


def resize_shorter(image: Image.Image, size: int, interpolation: str) -> Image.Image:
    """The picture with its shorter side at ``size`` pixels, its shape kept.

    The longer side is rounded down, as in the pipelines that classifiers are trained with.
    """
    width, height = image.size
    shorter = min(width, height)
    # One pixel at least: a very thin picture would vanish otherwise.
    target = (max(size * height // shorter, 1), max(size * width // shorter, 1))
    if max(target) * size > MAX_PIXELS:
        raise InputError(
            f"a picture of {width}x{height} cannot be resized",
            f"with its shorter side at {size} it has {target[1]}x{target[0]} pixels",
        )
    return resize(image, target, interpolation)


def center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle (height, width) of the picture; where it is smaller, black is added."""
    height, width = size
    left = round((image.width - width) / 2)
    top = round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} has {width}x{height} pixels", f"more than {MAX_PIXELS} are not decoded"
        )
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise InputError(f"{name} holds floating-point values", "their range is not known")
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Greys of 16 bits (in whatever integer type Pillow holds them) as 8 bits."""
    return (np.clip(values.astype(np.int64), 0, 65535) / 257).round().astype(np.uint8)
