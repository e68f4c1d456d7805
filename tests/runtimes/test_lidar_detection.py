"""Lidar detection around a session that answers what the test says."""

import sys

import numpy as np
import pytest
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.cli.run_output import destination
from edgekit.errors import BundleError, InputError, MissingBackendError, ParityError, UsageError
from edgekit.manifest import AxisRange, TaskInfo, TensorSpec
from edgekit.models import spec
from edgekit.runtimes.synthetic_sweep import synthetic_sweep
from edgekit.runtimes.tasks.lidar_detection import LidarDetection, with_columns
from edgekit.runtimes.tasks.lidar_params import LidarParams


class Manifest:
    def __init__(self, task):
        self.task = task


class Made:
    """A bundle that holds labels and nothing else."""

    path = "made.edgekit"

    def __init__(self, task):
        self.manifest = Manifest(task)
        self.labels = spec_labels(task)

    def read(self, name):
        return "\n".join(self.labels).encode()


def spec_labels(task):
    return [f"thing {i}" for i in range(len(task.params["suppression"]["thresholds"]))]


class Fake:
    """A session of either deployment that remembers what it was given."""

    runtime = "fake"

    def __init__(self, name, graph, answer=None, most=10**6):
        (found,) = [one for one in spec(name).graphs if one.name == graph]
        self.inputs = tuple(
            TensorSpec(
                name=one.name,
                dtype=one.dtype,
                shape=tuple(
                    f"{one.name}_{axis}" if axis in found.dynamic.get(one.name, {}) else size
                    for axis, size in enumerate(one.shape)
                ),
            )
            for one in found.inputs
        )
        self.outputs = tuple(
            TensorSpec(name=one, dtype="float32", shape=("n", "m")) for one in found.outputs
        )
        axes = [size for one in self.inputs for size in one.shape if isinstance(size, str)]
        self.dynamic = {axis: AxisRange(min=1, max=most) for axis in axes}
        self.answer, self.given = answer, None

    def run(self, inputs):
        self.given = inputs
        return self.answer


def params_of(name, **changed):
    return {**spec(name).task.params, **changed}


def task(name="dsvt-waymo-pillar", graph="whole", answer=None, most=10**6, **changed):
    bundle: Bundle = Made(TaskInfo(kind="lidar-detection", params=params_of(name, **changed)))
    return LidarDetection(bundle, Fake(name, graph, answer, most))


def centres(*objects):
    """A centre head's answer: (cell, class, score, box of 8 numbers), and one of no worth."""
    worthless = (0, 0, 0.01, [0, 0, 0, 1, 1, 1, 1, 0])
    cells, classes, scores, boxes = zip(*objects, worthless, strict=True)
    return {
        "scores": np.float32(scores)[:, None],
        "boxes": np.float32(boxes),
        "iou": np.ones((len(cells), 1), np.float32),
        "classes": np.int64(classes),
        "cells": np.int64(cells),
    }


CAR = [10, 5, 0.8, 4.5, 2.0, 1.6, 1.0, 0.0]


def test_points_become_boxes():
    one, same = (700, 0, 0.9, CAR), (701, 0, 0.6, [10.2, *CAR[1:]])
    other = (900, 1, 0.7, [-20, 8, 1, 0.8, 0.7, 1.7, 0.0, 2.0])
    made = task(answer=centres(one, same, other))
    sweep = np.concatenate([synthetic_sweep(8, 100), np.float32([[np.nan] * 5, [500] * 5])])
    found = made(sweep)
    assert found.counts.points == len(sweep)
    assert (found.counts.not_finite, found.counts.outside >= 1) == (1, True)
    assert [one.label for one in found.detections] == ["thing 0", "thing 1"]
    first, second = found.detections
    # The expected overlap is 1, so a score s weighs s to the power of 1 - 0.68.
    assert first.score == pytest.approx(0.9 ** (1 - 0.68), abs=1e-6)
    assert first.box == pytest.approx((10, 5, 0.8, 4.5, 2.0, 1.6, 0.0))
    assert second.box[6] == pytest.approx(np.pi / 2)
    assert first.velocity is None
    document = found.to_json()
    assert document["deployment"] == "whole"
    assert document["detections"][0]["label"] == "thing 0"
    assert "velocity" not in document["detections"][0]
    assert "2 objects with 30 % or more" in found.describe()
    assert made.session.given["points"].shape[0] == len(sweep) - 1 - found.counts.outside


def test_both_rotations_are_offered():
    beside = (701, 0, 0.8, [10, 5 + 1.2, *CAR[2:]])  # 40 % of both
    answer = centres((700, 0, 0.9, CAR), beside)
    rule = params_of("dsvt-waymo-pillar")["suppression"] | {"thresholds": [0.3] * 3}
    counts = [
        len(
            task(answer=answer, suppression=rule | {"rotation": rotation})(
                synthetic_sweep(8, 90)
            ).detections
        )
        for rotation in ("true", "published")
    ]
    assert counts == [2, 1]


def test_queries_become_boxes_with_velocities():
    boxes = np.zeros((200, 10), np.float32)
    boxes[:, 3:6], boxes[:, 6] = 1, 1
    boxes[:, 0] = np.arange(200) * 0.5 - 50
    boxes[:, 8:] = (1.5, -2)
    scores, classes = np.zeros((200, 1), np.float32), np.zeros(200, np.int64)
    scores[:3], classes[:3] = 0.5, (0, 8, 8)
    scores[2], boxes[2, 0] = 0.4, boxes[1, 0] + 0.1
    answer = {"scores": scores, "boxes": boxes, "iou": scores * 0 + 1, "classes": classes}
    answer["cells"] = np.arange(200)
    found = task("dsvt-nuscenes-pillar", answer=answer)(synthetic_sweep(8, 100))
    assert sorted(one.index for one in found.detections) == [0, 8]
    assert found.detections[0].velocity == (1.5, -2)
    assert found.to_json()["detections"][0]["velocity"] == [1.5, -2]


def test_the_picture_shows_points_and_boxes(tmp_path):
    found = task(answer=centres((700, 0, 0.9, CAR)))(synthetic_sweep(16, 200))
    np.save(tmp_path / "a.npy", synthetic_sweep(16, 200))
    picture = found.draw(tmp_path / "a.npy")
    assert isinstance(picture, Image.Image)
    pixels = np.asarray(picture)
    assert pixels.shape == (1000, 1000, 3)
    bare = np.asarray(task(answer=centres())(synthetic_sweep(16, 200)).draw(tmp_path / "a.npy"))
    changed = np.argwhere((pixels != bare).any(2))
    # x = 10 m ahead points up, y = 5 m to the left: 6.68 pixels a metre; the legend is above.
    row, column = np.median(changed[changed[:, 0] > 60], axis=0)
    assert row == pytest.approx((74.88 - 10) * 1000 / 149.76, abs=12)
    assert column == pytest.approx((74.88 - 5) * 1000 / 149.76, abs=12)


def test_a_recording_holds_points_and_boxes(tmp_path):
    pytest.importorskip("rerun")
    found = task(answer=centres((700, 0, 0.9, CAR)))(synthetic_sweep(16, 200))
    found.record(synthetic_sweep(16, 200), tmp_path / "a.rrd")
    content = (tmp_path / "a.rrd").read_bytes()
    assert content[:3] == b"RRF"
    assert all(name in content for name in (b"sweep/points", b"sweep/boxes"))


def test_without_rerun_a_recording_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingBackendError) as caught:
        destination(str(tmp_path / "a.rrd"), 1)
    assert caught.value.exit_code == 3
    assert "pip install 'edgekit-toolkit[rerun]'" in str(caught.value)
    with pytest.raises(UsageError, match="holds one answer"):
        destination(str(tmp_path / "a.rrd"), 2)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (np.zeros((0, 4), np.float32), "no points"),
        (np.full((5, 4), np.nan, np.float32), "all 5 are not finite"),
        (np.full((5, 4), 1e6, np.float32), "5 lie outside the range"),
        (np.zeros((5, 3), np.float32), "4 or 5 columns"),
        (np.zeros((5, 6), np.float32), "4 or 5 columns"),
    ],
)
@pytest.mark.parametrize("graph", ["whole", "split"])
def test_a_useless_sweep_is_refused_with_a_reason(points, reason, graph):
    with pytest.raises(InputError) as caught:
        task(graph=graph)(points)
    assert reason in str(caught.value)


@pytest.mark.parametrize("graph", ["whole", "split"])
def test_one_point_is_enough(graph):
    inputs = task(graph=graph).prepare(np.float32([[3, 4, 0.5, 0.1]]))
    assert all(0 not in value.shape for value in inputs.values())


def test_two_million_points():
    points = np.zeros((2_000_000, 5), np.float32)
    points[:, :2] = np.random.default_rng(0).uniform(-74, 74, (len(points), 2))
    assert task(most=1 << 21).prepare(points)["points"].shape == points.shape
    with pytest.raises(InputError, match=r"2000000 points in \d+ voxels are too many"):
        task(graph="split", most=1 << 16).prepare(points)


def test_columns():
    waymo = LidarParams.model_validate(params_of("dsvt-waymo-pillar"))
    nuscenes = LidarParams.model_validate(params_of("dsvt-nuscenes-pillar"))
    four = np.float32([[1, 2, 3, 0.5]])
    assert with_columns(four, waymo)[0].tolist() == pytest.approx([1, 2, 3, np.tanh(0.5), 0])
    assert with_columns(four, nuscenes)[0].tolist() == [1, 2, 3, 0.5, 0]
    five = np.float32([[1, 2, 3, 0.5, 0.05], [1, 2, 3, 0.5, 0.45]])
    kept = five.copy()
    assert with_columns(five, nuscenes)[1].tolist() == pytest.approx([1, 2, 3, 0.5, 0.45])
    assert with_columns(five, waymo)[1, 4] == pytest.approx(np.tanh(0.45))
    np.testing.assert_array_equal(five, kept)  # the caller's array stays as it is
    rings = np.float32([[1, 2, 3, 0.5, 0], [1, 2, 3, 0.5, 31]])
    assert with_columns(rings, nuscenes)[:, 4].tolist() == [0, 0]


def test_broken_answers_and_tasks_are_told_apart():
    answer = centres()
    answer["boxes"][0, 2] = np.nan
    with pytest.raises(ParityError, match="not finite"):
        task(answer=answer)(synthetic_sweep(8, 50))
    short = {**centres(), "iou": np.ones((3, 1), np.float32)}
    with pytest.raises(BundleError, match="does not fit"):
        task(answer=short)(synthetic_sweep(8, 50))
    for wrong in (
        {"score_threshold": 2},
        {"columns": ["x"]},
        {"squashed": ["colour"]},
        {"overlap_exponents": [0.5]},
        {"unknown": 1},
        {"layout": params_of("dsvt-waymo-pillar")["layout"] | {"z_strides": [2]}},
        {"layout": params_of("dsvt-waymo-pillar")["layout"] | {"upsample": [1, 2]}},
        {"layout": params_of("dsvt-waymo-pillar")["layout"] | {"voxel_size": [0.32, 0.32, 600]}},
    ):
        with pytest.raises(BundleError, match="makes no sense"):
            task(**wrong)
