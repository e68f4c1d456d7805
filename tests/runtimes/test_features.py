"""Feature maps of a picture, through a real session."""

import json

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, ParityError
from edgekit.runtimes import load, tasks

from .dense_graphs import dense_bundle, pyramid


@pytest.fixture
def open_task(tmp_path):
    """``open_task(**parameters)``: average colours at strides 4 and 8 on ONNX Runtime."""
    opened = []

    def make(**params):
        path = tmp_path / f"bundle{len(opened)}"
        made = dense_bundle(path, "features", pyramid, (64, 64), params, labels=None)
        session = load(bundle := Bundle.open(made), "onnxruntime", threads=1)
        opened.append(session)
        return tasks.for_bundle(bundle, session)

    yield make
    for session in opened:
        session.close()


PICTURE = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)


def pooled(stride):
    side = 64 // stride
    return PICTURE.reshape(side, stride, side, stride, 3).mean((1, 3)).transpose(2, 0, 1)[None]


def test_the_maps_by_name(open_task, tmp_path):
    result = open_task()(PICTURE)
    assert list(result.outputs) == ["stride4", "stride8"]
    for stride in (4, 8):
        np.testing.assert_allclose(result.outputs[f"stride{stride}"], pooled(stride), rtol=1e-4)
    result.save(tmp_path / "maps")
    with np.load(tmp_path / "maps", allow_pickle=False) as kept:
        np.testing.assert_array_equal(kept["stride8"], result.outputs["stride8"])


def test_figures_in_words_and_as_json(open_task):
    result = open_task()(PICTURE)
    facts = json.loads(json.dumps(result.to_json()))["outputs"]["stride8"]
    assert (facts["dtype"], facts["shape"]) == ("float32", [1, 3, 8, 8])
    assert facts["mean"] == pytest.approx(pooled(8).mean(), rel=1e-5)
    assert facts["std"] == pytest.approx(pooled(8).std(), rel=1e-4)
    line = result.describe().splitlines()[1]
    assert line == (
        f"stride8  float32 [1, 3, 8, 8]  mean {facts['mean']:.6g}, std {facts['std']:.6g}"
    )


def test_some_of_the_maps_in_another_order(open_task):
    assert list(open_task(outputs=["stride8", "stride4"])(PICTURE).outputs) == [
        "stride8",
        "stride4",
    ]
    assert list(open_task(outputs=["stride8"])(PICTURE).outputs) == ["stride8"]


@pytest.mark.parametrize("params", [{}, {"fit": "crop", "resize": 70}, {"fit": "stretch"}])
def test_ways_to_fit_a_picture(open_task, params):
    """A picture twice as wide as high, red on the left and blue on the right."""
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :40, 0], wide[:, 40:, 2] = 255, 255
    found = open_task(**params)(wide).outputs["stride8"][0]
    assert found[0, 1, 0] > 250
    assert found[2, 1, 7] > 250
    below = found[:, 6].max()  # the padding of a letterbox, the picture elsewhere
    assert below == 0 if not params else below > 250


def test_maps_that_are_not_finite(open_task):
    task = open_task(outputs=["stride8"])
    maps = {"stride4": np.zeros((1, 3, 16, 16)), "stride8": np.full((1, 3, 8, 8), np.nan)}
    with pytest.raises(ParityError, match=r"values of stride8 are not finite.*edgekit verify"):
        task.finish(maps)
    maps["stride8"][:] = 1
    maps["stride4"][0] = np.inf  # which nobody asked for
    assert task.finish(maps).to_json()["outputs"]["stride8"]["std"] == 0


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"outputs": ["stride16"]}, "output 'stride16' is not one"),
        ({"labels": "assets/labels.txt"}, "labels: Extra inputs"),
    ],
)
def test_parameters_that_make_no_sense(open_task, params, reason):
    with pytest.raises(BundleError, match=reason):
        open_task(**params)
