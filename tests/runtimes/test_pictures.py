"""Any picture that people have becomes 8-bit RGB; anything else is one clear line."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.errors import InputError
from edgekit.runtimes.tasks import pictures
from edgekit.runtimes.tasks.pictures import center_crop, decode, resize_shorter

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners() -> Image.Image:
    """40 x 20: red and green above, blue and white below."""
    picture = Image.new("RGB", (40, 20), RED)
    picture.paste(GREEN, (20, 0, 40, 10))
    picture.paste(BLUE, (0, 10, 20, 20))
    picture.paste(WHITE, (20, 10, 40, 20))
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def pixel(picture: Image.Image, x: int, y: int) -> tuple:
    assert picture.mode == "RGB"
    return picture.getpixel((x, y))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP", "JPEG"])
def test_formats(kind, tmp_path):
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / f"x.{kind.lower()}"
    path.write_bytes(encoded(corners(), kind, **options))
    for source in (path, str(path), path.read_bytes()):
        found = np.asarray(decode(source)).astype(int)
        tolerance = 60 if kind == "JPEG" else 0  # chroma bleeds over the edges
        assert np.abs(found[5, 5] - RED).max() <= tolerance
        assert np.abs(found[5, 35] - GREEN).max() <= tolerance
        assert np.abs(found[15, 5] - BLUE).max() <= tolerance


@pytest.mark.parametrize(
    ("orientation", "size", "where_red_went"),
    [
        (1, (40, 20), (0, 0)),
        (2, (40, 20), (39, 0)),
        (3, (40, 20), (39, 19)),
        (4, (40, 20), (0, 19)),
        (5, (20, 40), (0, 0)),
        (6, (20, 40), (19, 0)),
        (7, (20, 40), (19, 39)),
        (8, (20, 40), (0, 39)),
    ],
)
def test_exif_orientation(orientation, size, where_red_went):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(encoded(corners(), exif=exif))
    assert picture.size == size
    assert pixel(picture, *where_red_went) == RED


def test_modes():
    grey = Image.new("L", (4, 4), 100)
    assert pixel(decode(encoded(grey)), 0, 0) == (100, 100, 100)
    assert pixel(decode(encoded(Image.new("1", (4, 4), 1))), 0, 0) == WHITE
    palette = corners().quantize(4)
    assert pixel(decode(encoded(palette)), 0, 0) == RED
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert pixel(decode(encoded(cmyk, "TIFF")), 0, 0) == RED


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert pixel(decode(encoded(clear)), 0, 0) == WHITE
    half = Image.new("LA", (4, 4), (0, 128))
    assert pixel(decode(encoded(half)), 0, 0) == (127, 127, 127)
    palette = corners().quantize(4)
    opaque = palette.getpixel((0, 0))
    assert pixel(decode(encoded(palette, transparency=opaque)), 0, 0) == WHITE


@pytest.mark.parametrize(("value", "want"), [(0, 0), (257 * 100, 100), (65535, 255)])
def test_sixteen_bit_greys_are_scaled(value, want):
    grey = Image.fromarray(np.full((4, 4), value, np.uint16))
    assert pixel(decode(encoded(grey)), 0, 0) == (want,) * 3
    assert pixel(decode(encoded(grey, "TIFF")), 0, 0) == (want,) * 3
    wide = Image.fromarray(np.full((4, 4), value, np.int32))
    assert pixel(decode(wide), 0, 0) == (want,) * 3


def test_arrays_and_images_are_taken():
    array = np.asarray(corners())
    assert np.array_equal(decode(array), array)
    assert np.array_equal(decode(corners()), array)
    for wrong in (array.astype(float), array[..., 0], array[..., :2]):
        with pytest.raises(InputError, match="is no picture"):
            decode(wrong)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is no picture"),
        (b"Dear diary, today I", "is no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture"),
        (encoded(corners(), "JPEG")[:400], "cannot be decoded"),
        (encoded(corners())[:60], "cannot be decoded"),
        (bomb(13_000, 13_000), "13000x13000 pixels"),
        (bomb(60_000, 60_000), "cannot be decoded.*exceeds limit"),
        (encoded(Image.new("F", (2, 2), 0.5), "TIFF"), "floating-point"),
    ],
)
def test_what_is_no_picture(data, reason, tmp_path, recwarn):
    (tmp_path / "photo.jpg").write_bytes(data)
    with pytest.raises(InputError, match=rf"photo\.jpg.*{reason}") as caught:
        decode(tmp_path / "photo.jpg")
    assert "\n" not in str(caught.value)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["nothing.jpg", "."])
def test_what_cannot_be_read(tmp_path, name):
    with pytest.raises(InputError, match="cannot be read"):
        decode(tmp_path / name)


PICTURES = [encoded(corners(), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")]


@settings(max_examples=200, deadline=None, database=None)
@given(st.sampled_from(PICTURES), st.integers(0, 2000), st.binary(min_size=1, max_size=6))
def test_damaged_pictures_decode_or_are_refused(data, place, new):
    place %= len(data)
    try:
        picture = decode(data[:place] + new + data[place + len(new) :])
    except InputError:
        return
    assert picture.mode == "RGB"


def test_the_shorter_side_is_resized():
    assert resize_shorter(corners(), 10, "bicubic").size == (20, 10)
    assert resize_shorter(corners().rotate(90, expand=True), 10, "bicubic").size == (10, 20)
    # 375 x 500 to 236: 500 * 236 / 375 = 314.67, rounded down.
    assert resize_shorter(Image.new("RGB", (500, 375)), 236, "bilinear").size == (314, 236)
    assert resize_shorter(Image.new("RGB", (5, 5)), 20, "bilinear").size == (20, 20)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    for interpolation in ("bilinear", "bicubic"):
        small = np.asarray(resize_shorter(Image.fromarray(stripes), 16, interpolation)).astype(int)
        assert np.abs(small[:, 1:-1] - 127).max() < 20


def test_a_sliver_is_not_blown_up():
    with pytest.raises(InputError, match="cannot be resized"):
        resize_shorter(Image.new("RGB", (100_000, 1)), 224, "bicubic")


def test_the_middle_is_cropped():
    array = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9, 1).repeat(3, 2)
    cropped = np.asarray(center_crop(Image.fromarray(array), (3, 5)))
    np.testing.assert_array_equal(cropped, array[2:5, 2:7])


def test_a_picture_smaller_than_the_crop_is_padded_with_black():
    cropped = np.asarray(center_crop(corners(), (40, 60)))
    assert cropped.shape == (40, 60, 3)
    np.testing.assert_array_equal(cropped[10:30, 10:50], np.asarray(corners()))
    assert cropped[:10].max() == cropped[:, :10].max() == cropped[30:].max() == 0


def test_every_suffix_has_a_reader():
    Image.init()
    kinds = {Image.registered_extensions()[suffix] for suffix in pictures.SUFFIXES}
    assert kinds == {"BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"}
