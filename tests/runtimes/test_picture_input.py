"""How a picture gets into a network's input, and how boxes get back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from edgekit.errors import BundleError
from edgekit.manifest import AxisRange, TensorSpec
from edgekit.runtimes.tasks.picture_input import Geometry, PictureInput, PictureParams

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1), "scale": 1.0}


def spec(height, width, dtype="float32"):
    return TensorSpec(name="image", dtype=dtype, shape=(1, 3, height, width))


def dynamic(height, width=None):
    """Ranges of the axes h and w."""
    return {
        axis: AxisRange(min=low, max=high)
        for axis, (low, high) in {"h": height, "w": width or height}.items()
    }


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (50, 80, 3), np.uint8))


def test_letterbox_keeps_the_shape_and_pads_with_normalised_zero(photo):
    params = PictureParams(resolution=(64, 64))
    batch, geometry = PictureInput(params, spec(64, 64), {}).prepare(photo)
    assert geometry == Geometry(source=(50, 80), valid=(40, 64), input=(64, 64))
    assert (batch.shape, batch.dtype) == ((1, 3, 64, 64), np.float32)
    assert batch.flags.c_contiguous
    small = np.asarray(photo.resize((64, 40), Image.Resampling.BILINEAR)).astype(np.float64) / 255
    want = ((small - params.mean) / params.std).transpose(2, 0, 1)
    np.testing.assert_allclose(batch[0, :, :40], want, atol=1e-5)
    assert (batch[:, :, 40:] == 0).all()


@pytest.mark.parametrize(
    ("resolution", "valid"), [((100, 40), (25, 40)), ((50, 80), (50, 80)), ((100, 160), (100, 160))]
)
def test_the_narrower_side_decides(photo, resolution, valid):
    batch, geometry = PictureInput(
        PictureParams(resolution=resolution, **PLAIN), spec(*resolution), {}
    ).prepare(photo)
    assert (geometry.valid, geometry.input) == (valid, resolution)
    assert batch.shape[2:] == resolution


def test_stretch_does_not_keep_the_shape(photo):
    params = PictureParams(resolution=(30, 20), fit="stretch", **PLAIN)
    batch, geometry = PictureInput(params, spec(30, 20), {}).prepare(photo)
    assert geometry == Geometry((50, 80), (30, 20), (30, 20))
    want = np.asarray(photo.resize((20, 30), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(batch[0].transpose(1, 2, 0), want)


def test_crop_cuts_the_middle_out(photo):
    params = PictureParams(resolution=20, fit="crop", resize=25, **PLAIN)
    batch, geometry = PictureInput(params, spec(20, 20), {}).prepare(photo)
    assert geometry == Geometry.whole((20, 20))
    want = photo.resize((40, 25), Image.Resampling.BILINEAR).crop((10, 2, 30, 22))
    np.testing.assert_array_equal(batch[0].transpose(1, 2, 0), want)


def test_channels_and_dtype(photo):
    params = PictureParams(resolution=(50, 80), channels="BGR", **PLAIN)
    batch, _ = PictureInput(params, spec(50, 80, "float16"), {}).prepare(photo)
    assert batch.dtype == np.float16
    np.testing.assert_array_equal(batch[0].transpose(1, 2, 0), np.asarray(photo)[..., ::-1])


@pytest.mark.parametrize(
    ("resolution", "ranges", "axes", "source", "valid", "padded"),
    [
        # Both axes are free: padded up to a multiple of 32 alone.
        ((320, 320), dynamic((32, 512)), ("h", "w"), (50, 80), (200, 320), (224, 320)),
        # Rounded up past the resolution, as the range allows.
        ((800, 1333), dynamic((64, 1344)), ("h", "w"), (400, 700), (762, 1333), (768, 1344)),
        # No further than the largest multiple that the graph takes.
        ((320, 320), dynamic((32, 300)), ("h", "w"), (100, 100), (288, 288), (288, 288)),
        # A sliver is padded to what the graph takes at least.
        ((320, 320), dynamic((100, 512)), ("h", "w"), (10, 320), (10, 320), (128, 320)),
        # One axis is free.
        ((320, 320), dynamic((32, 512)), ("h", 320), (50, 100), (160, 320), (160, 320)),
        # Axes of one name are equal.
        ((320, 320), dynamic((32, 512)), ("h", "h"), (50, 100), (160, 320), (320, 320)),
        # No range is known.
        ((90, 90), {}, ("h", "w"), (100, 50), (90, 45), (96, 64)),
    ],
)
def test_dynamic_axes_are_padded_to_a_multiple(resolution, ranges, axes, source, valid, padded):
    way = PictureInput(PictureParams(resolution=resolution), spec(*axes), ranges)
    assert way.place(source) == Geometry(source, valid, padded)
    batch, _ = way.prepare(np.zeros((*source, 3), np.uint8))
    assert batch.shape[2:] == padded


SIDES = st.integers(1, 3000)


@settings(deadline=None, database=None)
@given(
    st.tuples(SIDES, SIDES),
    st.tuples(st.integers(32, 700), st.integers(32, 700)),
    st.tuples(st.integers(1, 64), st.integers(64, 900)),
    st.sampled_from([1, 8, 32, 64]),
    st.booleans(),
)
def test_every_picture_fits(source, resolution, limits, multiple, static):
    axes = resolution if static else ("h", "w")
    params = PictureParams(resolution=resolution, pad_multiple=multiple)
    found = PictureInput(params, spec(*axes), dynamic(limits)).place(source)
    for valid, padded, most in zip(found.valid, found.input, resolution, strict=True):
        assert 1 <= valid <= min(most, padded)
        if static:
            assert padded == most
        else:
            assert limits[0] <= padded <= limits[1]
            assert padded % multiple == 0
            # No more than needed.
            assert padded - valid < multiple or padded < limits[0] + multiple
    # The shape is kept: one scale gives both sides, rounded, but one pixel at least.
    pairs = list(zip(source, found.valid, strict=True))
    least = max((valid - 0.5) / side if valid > 1 else 0 for side, valid in pairs)
    assert least <= min((valid + 0.5) / side for side, valid in pairs) * (1 + 1e-12)
    assert max(v / m for v, m in zip(found.valid, resolution, strict=True)) == 1 or not static


def test_boxes_go_back_to_the_picture():
    geometry = Geometry(source=(500, 801), valid=(40, 64), input=(64, 64))
    boxes = np.array([[0, 0, 64, 40], [32, 20, 33, 22]], np.float32)
    found = geometry.to_source(boxes)
    np.testing.assert_allclose(
        found, [[0, 0, 801, 500], [400.5, 250, 801 * 33 / 64, 275]], rtol=1e-6
    )
    assert found.dtype == np.float32
    assert (Geometry.whole((9, 9)).to_source(boxes) == boxes).all()


@pytest.mark.parametrize(
    ("params", "shape", "ranges", "reason"),
    [
        ({}, (1, 3, 32, 64), {}, r"the task gives float \[1, 3, 64, 64\], the graph takes"),
        ({}, (1, 1, 64, 64), {}, "the task gives float"),
        ({}, (3, 64, 64), {}, "the task gives float"),
        ({}, (1, 3, "h", 64), {"h": AxisRange(min=33, max=63)}, r"multiples of 32.*33\.\.63"),
    ],
)
def test_what_does_not_fit_the_graph(params, shape, ranges, reason):
    tensor = TensorSpec(name="image", dtype="float32", shape=shape)
    with pytest.raises(BundleError, match=reason):
        PictureInput(PictureParams(resolution=64, **params), tensor, ranges)
    with pytest.raises(BundleError, match="does not fit its graph"):
        PictureInput(PictureParams(resolution=64), spec(64, 64, "int64"), {})


def test_a_resize_that_would_be_ignored_is_refused():
    with pytest.raises(ValidationError, match='goes with fit "crop"'):
        PictureParams(resolution=64, resize=70)
