"""Pictures of another size, against PyTorch's interpolation and Apple's own examples."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")

import torch.nn.functional as F  # noqa: E402
from scipy.ndimage import map_coordinates  # noqa: E402

from .mil_programs import builder, close, interpret, normal  # noqa: E402

mb = builder()
DTYPES = ("float32", "float16")
SIZES = [(14, 10), (9, 17), (7, 5), (3, 1), (1, 2), (20, 4)]


def wide(array):
    return torch.from_numpy(array.astype(np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("mode", "corners"), [("UNALIGN_CORNERS", False), ("STRICT_ALIGN_CORNERS", True)]
)
def test_bilinear(mode, corners, size, dtype):
    x = normal(2, 3, 7, 5, dtype=dtype)
    wanted = F.interpolate(wide(x), size, mode="bilinear", align_corners=corners)
    found = interpret(
        lambda v: mb.resize_bilinear(
            x=v, target_size_height=size[0], target_size_width=size[1], sampling_mode=mode
        ),
        x,
    )
    close(found, wanted, dtype)
    found = interpret(
        lambda v: mb.resize(x=v, shape=[1, *size], resized_dims=np.uint32(2), sampling_mode=mode),
        x,
    )
    close(found, wanted, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factors", [(2, 3), (1.5, 0.75)])
@pytest.mark.parametrize("corners", [False, True])
def test_upsample_bilinear(corners, factors, dtype):
    x = normal(1, 2, 7, 5, dtype=dtype)
    size = [int(s * f) for s, f in zip((7, 5), factors, strict=True)]
    wanted = F.interpolate(wide(x), size, mode="bilinear", align_corners=corners)
    found = interpret(
        lambda v: mb.upsample_bilinear(
            x=v,
            scale_factor_height=factors[0],
            scale_factor_width=factors[1],
            align_corners=corners,
        ),
        x,
    )
    close(found, wanted, dtype)


# The examples in the documentation of resize_bilinear: an input of two elements, 0 and 1.
EXAMPLES = {
    ("UNALIGN_CORNERS", 5): [0, 0.1, 0.5, 0.9, 1],
    ("STRICT_ALIGN_CORNERS", 5): [0, 0.25, 0.5, 0.75, 1],
    ("ALIGN_CORNERS", 5): [0, 0.25, 0.5, 0.75, 1],
    ("DEFAULT", 5): [0, 0.4, 0.8, 1, 1],
    ("OFFSET_CORNERS", 5): [0.1, 0.3, 0.5, 0.7, 0.9],
    ("UNALIGN_CORNERS", 6): [0, 0, 1 / 3, 2 / 3, 1, 1],
    ("STRICT_ALIGN_CORNERS", 6): [0, 0.2, 0.4, 0.6, 0.8, 1],
    ("DEFAULT", 6): [0, 1 / 3, 2 / 3, 1, 1, 1],
    ("OFFSET_CORNERS", 6): [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12],
    ("STRICT_ALIGN_CORNERS", 1): [0],
    ("ALIGN_CORNERS", 1): [0.5],
}


@pytest.mark.parametrize(("mode", "count"), EXAMPLES)
def test_apples_examples(mode, count):
    x = np.array([[[0, 1]]], np.float32)
    found = interpret(
        lambda v: mb.resize_bilinear(
            x=v, target_size_height=1, target_size_width=count, sampling_mode=mode
        ),
        x,
    )
    close(found, np.array([[EXAMPLES[mode, count]]], np.float32))


@pytest.mark.parametrize("size", SIZES)
def test_nearest(size):
    x = normal(2, 3, 7, 5)
    wanted = F.interpolate(torch.from_numpy(x), size, mode="nearest")
    found = interpret(
        lambda v: (
            mb.resize_nearest_neighbor(x=v, target_size_height=size[0], target_size_width=size[1]),
            mb.resize(
                x=v,
                shape=list(size),
                resized_dims=np.uint32(2),
                interpolation_mode="NEAREST_NEIGHBOR",
            ),
        ),
        x,
    )
    close(found[0], wanted)
    close(found[1], wanted)


@pytest.mark.parametrize("factors", [(2, 3), (2.0, 1.0), (1.5, 2.5)])
def test_upsample_nearest(factors):
    x = normal(2, 3, 4, 6)
    found = interpret(
        lambda v: mb.upsample_nearest_neighbor(
            x=v, scale_factor_height=factors[0], scale_factor_width=factors[1]
        ),
        x,
    )
    close(found, F.interpolate(torch.from_numpy(x), scale_factor=factors, mode="nearest"))


def test_a_size_of_zero_leaves_an_axis():
    x = normal(1, 2, 4, 6)
    found = interpret(
        lambda v: mb.resize(
            x=v, shape=[1, 0, 3], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"
        ),
        x,
    )
    close(found, F.interpolate(wide(x), (4, 3), mode="bilinear"))


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("padding", ["constant", "border", "reflection"])
@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
def test_resample(sampling, padding, corners):
    x = normal(2, 3, 5, 6)
    places = (1.3 * normal(2, 4, 3, 2, seed=1)).astype(np.float32)
    found = interpret(
        lambda v, c: mb.resample(
            x=v,
            coordinates=c,
            sampling_mode=sampling,
            padding_mode=padding,
            padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=corners,
        ),
        x,
        places,
    )
    name = "zeros" if padding == "constant" else padding
    close(found, F.grid_sample(wide(x), wide(places), sampling, name, corners))


def test_resample_at_whole_pixels():
    x = normal(1, 2, 5, 6)
    places = np.array([[[[4, 1], [0, 3]]]], np.float32)
    found = interpret(
        lambda v, c: mb.resample(
            x=v,
            coordinates=c,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=0.0,
            coordinates_mode="unnormalized",
            align_corners=True,
        ),
        x,
        places,
    )
    close(found[0, :, 0], np.stack([x[0, :, 1, 4], x[0, :, 3, 0]], 1))


def test_crop_resize_on_apples_example():
    """From the tests of coremltools: outside the picture is the given value."""
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    boxes = np.array([[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3], [0.0, 0.4, 0.6, 0.7]], np.float32)
    found = interpret(
        lambda v: mb.crop_resize(
            x=v,
            boxes=boxes,
            box_indices=np.zeros(3, np.int32),
            target_width=2,
            target_height=2,
            normalized_coordinates=True,
            sampling_mode="ALIGN_CORNERS",
            pad_value=np.float32(10),
        ),
        x,
    )
    wanted = [3.1, 5.2, 10.0, 10.0, 10.0, 7.9, 10.0, 13.9, 2.2, 3.1, 9.4, 10.3]
    close(found, np.array(wanted).reshape(3, 1, 2, 2))


@pytest.mark.parametrize("size", [(3, 4), (1, 1)])
@pytest.mark.parametrize(
    ("mode", "boxes"),
    [
        ("CORNERS_HEIGHT_FIRST", [[0.5, 1, 3.5, 4.2], [1, 0, 2, 5]]),
        ("CORNERS_WIDTH_FIRST", [[1, 0.5, 4.2, 3.5], [0, 1, 5, 2]]),
        ("CENTER_SIZE_HEIGHT_FIRST", [[2, 2.6, 3, 3.2], [1.5, 2.5, 1, 5]]),
        ("CENTER_SIZE_WIDTH_FIRST", [[2.6, 2, 3.2, 3], [2.5, 1.5, 5, 1]]),
    ],
)
def test_crop_resize(mode, boxes, size):
    x = normal(2, 3, 5, 6)
    found = interpret(
        lambda v: mb.crop_resize(
            x=v,
            boxes=np.array(boxes, np.float32),
            box_indices=np.array([1, 0], np.int32),
            target_height=size[0],
            target_width=size[1],
            box_coordinate_mode=mode,
            sampling_mode="ALIGN_CORNERS",
        ),
        x,
    )
    corners = [(0.5, 1, 3.5, 4.2), (1, 0, 2, 5)]
    for crop, picture, (top, left, bottom, right) in zip(found, x[::-1], corners, strict=True):
        middle = size == (1, 1)
        rows = [(top + bottom) / 2] if middle else np.linspace(top, bottom, size[0])
        columns = [(left + right) / 2] if middle else np.linspace(left, right, size[1])
        places = np.meshgrid(rows, columns, indexing="ij")
        for channel, plane in zip(crop, picture.astype(np.float64), strict=True):
            close(channel, map_coordinates(plane, places, order=1))
