"""Segmentation: the mask against upsampling all logits, and a real session from photo to mask."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, ParityError
from edgekit.runtimes import load, tasks
from edgekit.runtimes.label_map import label_map

from .dense_graphs import COLOURS, dense_bundle, segmenter

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def upsampled(logits, size, extent=None):
    """All logits at every pixel, one bilinear interpolation after the other, in float64."""
    classes, *grid = logits.shape
    extent = extent or grid
    used = [int(np.ceil(length)) for length in extent]
    answer = np.zeros((classes, *size))
    for y in range(size[0]):
        v = min(max((y + 0.5) * extent[0] / size[0] - 0.5, 0), used[0] - 1)
        top = int(v)
        below = min(top + 1, used[0] - 1)
        for x in range(size[1]):
            u = min(max((x + 0.5) * extent[1] / size[1] - 0.5, 0), used[1] - 1)
            left = int(u)
            right = min(left + 1, used[1] - 1)
            answer[:, y, x] = (
                logits[:, top, left] * (1 - (v - top)) * (1 - (u - left))
                + logits[:, top, right] * (1 - (v - top)) * (u - left)
                + logits[:, below, left] * (v - top) * (1 - (u - left))
                + logits[:, below, right] * (v - top) * (u - left)
            )
    return answer


def is_argmax_of(mask, values, tolerance=1e-5):
    """Each class of the mask is the best, but for what rounding decides."""
    chosen = np.take_along_axis(values, mask[None].astype(int), 0)[0]
    return (values.max(0) - chosen <= tolerance).all()


GRID = st.tuples(st.integers(1, 6), st.integers(1, 6))


@settings(deadline=None, database=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    GRID,
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    st.sampled_from([np.float32, np.float16]),
)
def test_the_mask_is_the_argmax_of_the_upsampled_logits(seed, classes, grid, size, share, kind):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (classes, *grid)).astype(kind)  # with many ties and areas
    logits += (rng.random(logits.shape) * 0.1).astype(kind)
    extent = (grid[0] * share[0], grid[1] * share[1])
    for given_extent in (None, extent):
        mask = label_map(logits, size, given_extent)
        assert (mask.shape, mask.dtype) == (size, np.uint8)
        assert is_argmax_of(mask, upsampled(logits.astype(float), size, given_extent))


def test_it_is_what_pytorch_does():
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(3).standard_normal((7, 9, 13)).astype(np.float32)
    for size in ((36, 52), (40, 31), (5, 6)):
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(logits)[None], size=size, mode="bilinear", align_corners=False
        )
        assert is_argmax_of(label_map(logits, size), resized[0].numpy())


def test_padding_has_no_say():
    """Whatever stands beyond the picture's extent, the mask is the same."""
    logits = np.random.default_rng(4).standard_normal((3, 8, 8)).astype(np.float32)
    one = label_map(logits, (20, 30), (4.5, 7.0))
    logits[:, 5:], logits[:, :, 7:] = 100, -100
    logits[2, 5:] = 1e6
    np.testing.assert_array_equal(one, label_map(logits, (20, 30), (4.5, 7.0)))


def test_many_classes_need_sixteen_bits():
    logits = np.zeros((300, 2, 2), np.float32)
    logits[299] = 1
    mask = label_map(logits, (4, 4))
    assert (mask.dtype, mask.min()) == (np.uint16, 299)


@pytest.fixture
def open_task(tmp_path):
    """``open_task(size=…, **parameters)``: the segmenter of colours on ONNX Runtime."""
    opened = []

    def make(size=(64, 64), dynamic=None, labels=COLOURS, network=segmenter, **params):
        path = tmp_path / f"bundle{len(opened)}"
        made = dense_bundle(path, "segmentation", network, size, params, dynamic, labels)
        session = load(bundle := Bundle.open(made), "onnxruntime", threads=1)
        opened.append(session)
        return tasks.for_bundle(bundle, session)

    yield make
    for session in opened:
        session.close()


def thirds(height, width):
    """Red above, below it green on the left and blue on the right."""
    made = np.zeros((height, width, 3), np.uint8)
    made[:] = RED
    made[height // 2 :, : width // 2] = GREEN
    made[height // 2 :, width // 2 :] = BLUE
    return made


@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (32, 64), (200, 100), (90, 160), (16, 16)])
def test_the_mask_has_the_pictures_size_and_colours(open_task, shape):
    picture = thirds(*shape)
    result = open_task()(picture)
    assert result.mask.shape == shape
    want = picture.argmax(2)
    # Borders are where they were, to a pixel of the network's input.
    border = int(np.ceil(max(shape) / 64)) * 2
    sure = np.ones(shape, bool)
    middle = shape[0] // 2
    sure[middle - border : middle + border] = False
    sure[middle:, shape[1] // 2 - border : shape[1] // 2 + border] = False
    assert sure.mean() > 0.5
    assert (result.mask == want)[sure].all()
    np.testing.assert_allclose(
        [(result.mask == c).mean() for c in range(3)], [0.5, 0.25, 0.25], atol=0.03
    )


def test_a_stretched_picture(open_task):
    result = open_task(fit="stretch")(thirds(128, 40))
    np.testing.assert_allclose([one.share for one in result.shares], [0.5, 0.25, 0.25], atol=0.03)


def test_dynamic_height_and_width(open_task):
    task = open_task(
        ("h", "w"), {"h": (32, 128), "w": (32, 128)}, resolution=[96, 96], pad_multiple=32
    )
    begun = task.begin(thirds(60, 120))
    assert begun.inputs["image"].shape == (1, 3, 64, 96)
    result = begun.finish(task.session.run(begun.inputs))
    assert result.mask.shape == (60, 120)
    np.testing.assert_allclose([one.share for one in result.shares], [0.5, 0.25, 0.25], atol=0.03)


@pytest.mark.parametrize("stride", [1, 8, 16])
def test_any_stride(open_task, stride):
    task = open_task(network=lambda h, w: segmenter(h, w, stride))
    shares = {one.label: one.share for one in task(thirds(64, 64)).shares}
    # Where the three meet, the first of equals wins.
    assert shares == pytest.approx({"red": 0.5, "green": 0.25, "blue": 0.25}, abs=0.01)


def test_the_result_in_words_and_as_json(open_task):
    result = open_task()(thirds(64, 64))
    lines = " 50.00 %  red\n 25.00 %  green\n 25.00 %  blue"
    assert result.describe() == lines
    document = json.loads(json.dumps(result.to_json()))
    assert document["size"] == [64, 64]
    assert document["classes"][0] == {"label": "red", "index": 0, "share": 0.5}
    assert len(document["classes"]) == 3
    only = open_task()(np.full((64, 64, 3), GREEN, np.uint8))
    assert [(one.label, one.share) for one in only.shares] == [("green", 1.0)]


def test_small_classes_are_summed_up(open_task):
    task = open_task(labels=None)
    logits = np.zeros((1, 20, 4, 16), np.float32)
    for place in range(16):
        logits[0, place, :, place] = 1
    lines = task.finish({"logits": logits}).describe().splitlines()
    assert len(lines) == 9
    assert lines[-1] == " 50.00 %  8 others"


def test_a_mask_is_saved_as_it_is(open_task, tmp_path):
    result = open_task()(thirds(40, 64))
    result.save_mask(tmp_path / "mask.part")
    with Image.open(tmp_path / "mask.part") as saved:
        assert (saved.format, saved.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(saved), result.mask)
    wide = type(result)(np.array([[0, 299], [65535, 1]], np.uint16), ())
    wide.save_mask(tmp_path / "wide.png")
    with Image.open(tmp_path / "wide.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), wide.mask)


def test_the_picture_is_half_covered(open_task):
    from edgekit.runtimes.tasks.drawing import colour

    picture = thirds(128, 128)
    result = open_task()(picture)
    pixels = np.asarray(result.draw(picture)).astype(int)
    for y, x, kind, tint in ((40, 120, 0, RED), (120, 10, 1, GREEN), (120, 120, 2, BLUE)):
        assert result.mask[y, x] == kind
        want = (np.array(tint) + colour(kind)) / 2
        assert np.abs(pixels[y, x] - want).max() <= 1
    # The legend names the three classes in the corner, each on its own colour.
    assert [tuple(pixels[y, 0]) for y in (3, 17, 31)] == [colour(i) for i in range(3)]
    with pytest.raises(InputError, match="another size"):
        result.draw(picture[:100])


def test_outputs_that_make_no_sense(open_task):
    task = open_task()
    logits = np.zeros((1, 3, 16, 16), np.float32)
    assert task.finish({"logits": logits}).mask.shape == (64, 64)
    logits[0, 1, 2, 3] = np.nan
    with pytest.raises(ParityError, match=r"logits are not finite.*edgekit verify"):
        task.finish({"logits": logits})
    with pytest.raises(BundleError, match=r"logits are \(1, classes, height, width\)"):
        task.finish({"logits": np.zeros((2, 3, 4, 4), np.float32)})
    with pytest.raises(BundleError, match="3 classes do not fit 2 labels"):
        open_task(labels=("a", "b"))(thirds(64, 64))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"output": "mask"}, "output 'mask' is not one"),
        ({"fit": "crop"}, "fit"),
        ({"top_k": 5}, "top_k: Extra inputs"),
        ({"resolution": [32, 32]}, "the task gives float"),
    ],
)
def test_parameters_that_make_no_sense(open_task, changes, reason):
    with pytest.raises(BundleError, match=reason):
        open_task(**changes)
