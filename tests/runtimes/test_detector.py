"""The detector as a user has it: classes, thresholds, chunks, outlines, and what runs how often."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, ParityError, UsageError
from edgekit.runtimes import load, tasks
from edgekit.runtimes.boxes import iou
from edgekit.runtimes.detector import Detector
from edgekit.runtimes.detector_head import chunk_size, score
from edgekit.runtimes.tasks.prompted_detection import NO_CACHE, Settings

from ..dart_micro import AT_ONCE, RUNTIMES

NAMES = ("person", "car", "traffic light", "dog", "kite")


@pytest.fixture(scope="module", params=RUNTIMES)
def detector(request, dart_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with Detector.open(
        dart_bundle, NAMES, runtime=request.param, threads=1, cache=folder, threshold=0.0
    ) as opened:
        yield opened


@pytest.fixture
def opened(dart_bundle, tmp_path):
    """``opened(**options)``: a detector on ONNX Runtime with a cache of its own."""
    made = []

    def make(classes=NAMES, **options):
        options = {"runtime": "onnxruntime", "threads": 1, "cache": tmp_path / "text"} | options
        made.append(Detector.open(dart_bundle, classes, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def found(result):
    return [(one.label, one.score, one.box) for one in result.detections]


def test_the_backbone_runs_once_whatever_the_number_of_classes(opened, frames, monkeypatch):
    """Counted at the session itself, so no load of the machine can hide a second run."""
    detector, picture = opened(), frames(1)[0]
    calls = []
    run = detector.session._run
    monkeypatch.setattr(detector.session, "_run", lambda inputs: calls.append(1) or run(inputs))
    for count in (1, 2, 5, 17, 40):
        detector.classes = [f"class {number}" for number in range(count)]
        before = detector.runs
        calls.clear()
        detector.detect(picture)
        after = detector.runs
        assert len(calls) == 1
        assert after["vision"] - before["vision"] == 1
        assert after["detection"] - before["detection"] == -(-count // AT_ONCE)
        assert after["text"] == before["text"]


def test_classes_change_without_looking_again(opened, frames):
    detector = opened()
    seen = detector.look(frames(1)[0])
    first = detector.find(seen)
    detector.classes = ["boat", *NAMES[:2]]
    second = detector.find(seen)
    detector.classes = NAMES
    assert found(detector.find(seen)) == found(first)
    assert {one.label for one in second.detections} <= {"boat", *NAMES[:2]}
    assert detector.runs["vision"] == 1


def test_a_class_is_found_alike_among_any_others(detector, frames):
    picture = frames(1)[0]
    detector.classes = NAMES
    among = [one for one in found(detector.detect(picture)) if one[0] == "dog"]
    detector.classes = ["dog"]
    alone = found(detector.detect(picture))
    assert among
    for one, other in zip(among, alone, strict=False):
        assert one[1] == pytest.approx(other[1], abs=1e-5)
        assert one[2] == pytest.approx(other[2], abs=1e-2)


def test_both_runtimes_find_the_same(dart_bundle, frames, tmp_path):
    results = []
    for runtime in RUNTIMES:
        with Detector.open(dart_bundle, NAMES, runtime=runtime, threads=1, cache=tmp_path) as one:
            results.append(found(one.detect(frames(1)[0])))
    first, second = results
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1], abs=1e-4)


def test_scores_are_both_sigmoids(opened, frames):
    """Recomputed from the graphs' own outputs; without presence they would be others."""
    detector = opened(threshold=0.0, iou_threshold=1.0)
    picture = frames(1)[0]
    seen = detector.look(picture)
    text, masks = detector.task.prompts.embed(NAMES)
    expected, without = [], []
    for row in range(len(NAMES)):
        part = slice(row, row + 1)
        outputs = detector.task.head.session.run(
            {
                "features": seen.outputs["features"],
                "text_features": text[part],
                "attention_mask": masks[part],
            }
        )
        alone = 1 / (1 + np.exp(-outputs["logits"].astype(np.float64)))
        expected += (alone / (1 + np.exp(-outputs["presence"].astype(np.float64)))).ravel().tolist()
        without += alone.ravel().tolist()
    scores = [one.score for one in detector.find(seen).detections]
    assert scores == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    assert np.abs(np.sort(without)[::-1] - scores).max() > 0.01


def test_score_is_exact_where_exponentials_overflow():
    extremes = np.array([[-1e5, -12.0, 0.0, 12.0, 1e5]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        got = score(extremes, np.array([[0.0]], np.float32))
    assert got[0].tolist() == pytest.approx([0, 3.0720872e-06, 0.25, 0.49999693, 0.5], rel=1e-6)
    assert score(np.zeros((1, 1), np.float16), np.zeros((1, 1), np.float16)).dtype == np.float32


def test_doubles_are_suppressed_within_a_class_only(opened, frames):
    detector = opened(threshold=0.0, iou_threshold=0.3)
    picture = frames(1)[0]
    each = []
    for name in NAMES:
        detector.classes = [name]
        each += found(detector.detect(picture))
    detector.classes = NAMES
    together = found(detector.detect(picture))
    assert sorted(name for name, *_ in together) == sorted(name for name, *_ in each)
    boxes = np.array([box for *_, box in together])
    labels = [name for name, *_ in together]
    overlap = iou(boxes, boxes) > 0.31
    same = np.equal.outer(labels, labels)
    assert not (overlap & same & ~np.eye(len(boxes), dtype=bool)).any()
    assert (overlap & ~same).any()


def test_doubles_of_other_classes_can_be_suppressed_too(opened, frames):
    picture = frames(1)[0]
    options = {"threshold": 0.0, "iou_threshold": 0.3}
    within = opened(**options).detect(picture)
    across = opened(**options, class_agnostic=True).detect(picture)
    assert 0 < len(across.detections) < len(within.detections)
    boxes = np.array([one.box for one in across.detections])
    assert not np.triu(iou(boxes, boxes) > 0.31, 1).any()


def test_nothing_above_the_threshold_is_an_empty_answer(opened, frames):
    for agnostic in (False, True):
        detector = opened(threshold=1.0, class_agnostic=agnostic, masks=True)
        result = detector.detect(frames(1)[0])
        assert (result.detections, result.masks) == ((), ())
        assert detector.runs["masks"] == 0
        result.draw(frames(1)[0])
        assert "0 objects" in result.describe()


def test_memory_makes_chunks_and_chunks_change_nothing(opened, frames):
    picture = frames(1)[0]
    whole = opened(threshold=0.0)
    one = whole.task.params.class_bytes
    for memory, chunk in ((0, 1), (one, 1), (2 * one, 2), (100 * one, AT_ONCE)):
        small = opened(threshold=0.0, memory=memory)
        assert small.task.head.chunk == chunk
        expected, got = found(whole.detect(picture)), found(small.detect(picture))
        assert [name for name, *_ in got] == [name for name, *_ in expected]
        assert np.allclose([s for _, s, _ in got], [s for _, s, _ in expected], atol=1e-5)
    assert chunk_size(whole.task.head.session, 0, 5) == AT_ONCE


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class"),
        (["dog", " "], "class 2 has no name"),
        (["dog", None], "class 2 has no name"),
        ("dog", "one text"),
        (["supercalifragilisticexpialidocious things"], "too long"),
    ],
)
def test_names_that_are_none_are_refused_and_the_old_ones_stay(opened, frames, names, message):
    detector = opened()
    with pytest.raises(UsageError, match=message):
        detector.classes = names
    assert detector.classes == NAMES
    detector.detect(frames(1)[0])


def test_unknown_many_and_repeated_names_behave(opened, frames):
    detector = opened(["qwrtzp", "猫", "  traffic\tlight ", "qwrtzp", "½"])
    assert detector.classes == ("qwrtzp", "猫", "traffic light", "½")
    detector.detect(frames(1)[0])
    detector.classes = [f"thing {number}" for number in range(500)]
    assert len(detector.classes) == 500
    result = detector.detect(frames(1)[0])
    assert len(result.detections) <= 100
    assert all(one.label == f"thing {one.index}" for one in result.detections)


def test_without_names_it_looks_for_the_bundles_own(opened):
    assert opened(classes=None).classes[:3] == ("person", "bicycle", "car")


@pytest.mark.parametrize("bad", [{"threshold": -0.1}, {"iou_threshold": 2.0}])
def test_a_value_that_is_no_share_is_refused(opened, bad):
    with pytest.raises(UsageError, match="no share"):
        opened(**bad)


def test_outlines_are_drawn_for_what_is_kept_alone(opened, frames):
    detector = opened(threshold=0.0, masks=True)
    detector.task.params = detector.task.params.model_copy(update={"max_detections": 4})
    picture = frames(1)[0]
    result = detector.detect(picture)
    assert len(result.masks) == len(result.detections) == 4
    assert all(mask.shape == picture.shape[:2] and mask.dtype == bool for mask in result.masks)
    classes = {one.index for one in result.detections}
    assert detector.runs["masks"] == len(classes)
    areas = [one["area"] for one in result.to_json()["detections"]]
    assert areas == [int(mask.sum()) for mask in result.masks]
    assert sum(areas) > 0


def test_outlines_need_a_graph_for_them(opened):
    detector = opened()
    detector.task.params = detector.task.params.model_copy(update={"masks": None})
    with pytest.raises(UsageError, match="without them"):
        detector.task.configure(Settings(masks=True))


def test_random_weights_are_called_random_wherever_a_result_is_shown(opened, frames):
    result = opened(threshold=0.0).detect(frames(1)[0])
    assert result.describe().startswith("random weights")
    assert result.to_json()["weights"] == "random (seed 0)"
    json.dumps(result.to_json())
    plain, drawn = frames(1)[0], np.asarray(result.draw(frames(1)[0]))
    assert drawn.shape == plain.shape
    assert (drawn[-3:] != plain[-3:]).any(), "the remark is in the picture"
    assert (drawn[-3:, -1] == 0).all()


def test_boxes_are_in_the_pictures_own_pixels(detector, frames):
    picture = frames(1)[0]
    detector.classes = NAMES
    result = detector.detect(Image.fromarray(picture))
    assert result.size == picture.shape[:2]
    boxes = np.array([one.box for one in result.detections])
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 120).all()
    assert (boxes[:, [1, 3]] <= 90).all()
    assert boxes[:, 2].max() > 90, "x reaches beyond the height: axes are not mixed up"


def test_the_task_of_the_command_line_is_the_same(dart_bundle, opened, frames):
    picture = frames(1)[0]
    with Bundle.open(dart_bundle) as bundle, load(bundle, "onnxruntime", threads=1) as session:
        task = tasks.for_bundle(bundle, session)
        task.configure(Settings(cache=NO_CACHE))
        task.choose(NAMES)
        assert found(task(picture)) == found(opened().detect(picture))


def test_outputs_that_are_not_finite_are_refused(opened, frames, monkeypatch):
    detector = opened()
    session = detector.task.head.session
    run = session._run

    def broken(inputs):
        outputs = run(inputs)
        outputs["logits"] = np.full_like(outputs["logits"], np.nan)
        return outputs

    monkeypatch.setattr(session, "_run", broken)
    with pytest.raises(ParityError, match="logits are not finite"):
        detector.detect(frames(1)[0])


def test_another_task_is_no_detector(runtime_bundle):
    with pytest.raises(UsageError, match="its task is tensors"):
        Detector.open(runtime_bundle("onnxruntime"), runtime="onnxruntime")


def test_a_box_outside_of_the_picture_is_none(opened, frames, monkeypatch):
    """What lies outside is left out, and what is cut at the border is compared as it is shown."""
    detector = opened(["dog"], threshold=0.5, iou_threshold=0.5)
    session = detector.task.head.session
    run = session._run
    # Outside; then two that differ outside alone, so that they are the same thing.
    boxes = [(1.1, 0.2, 1.5, 0.6), (0.8, 0.2, 1.0, 0.6), (0.8, 0.2, 2.5, 0.6)]

    def other(inputs):
        outputs = run(inputs)
        outputs["logits"] = np.full_like(outputs["logits"], -9)
        outputs["presence"] = np.full_like(outputs["presence"], 9)
        for place, box in enumerate(boxes):
            outputs["boxes"][0, place] = box
            outputs["logits"][0, place] = 9 - place
        return outputs

    monkeypatch.setattr(session, "_run", other)
    (only,) = detector.detect(frames(1)[0]).detections
    assert only.box == pytest.approx((96, 18, 120, 54), abs=1e-3)


def test_graphs_that_do_not_fit_the_task_are_refused(opened, frames, monkeypatch):
    """A bundle is somebody else's: what its graphs lack is said, not stumbled over."""
    detector = opened(threshold=0.0, masks=True)
    seen = detector.look(frames(1)[0])
    session = detector.task.head.session
    kept = session.outputs
    for lacking in ("memory", "logits"):
        session.outputs = tuple(one for one in kept if one.name != lacking)
        with pytest.raises(BundleError, match="does not fit the task"):
            detector.find(seen)
    session.outputs = kept
    vision = SimpleNamespace(
        inputs=detector.session.inputs,
        outputs=detector.session.outputs[1:],
        dynamic={},
        runtime="onnxruntime",
    )
    with pytest.raises(BundleError, match="features"):
        tasks.for_bundle(detector.task.bundle, vision)
