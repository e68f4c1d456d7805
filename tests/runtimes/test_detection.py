"""Detection: candidates and suppression by definition, and a real session from photo to boxes."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, ParityError
from edgekit.runtimes import load, tasks
from edgekit.runtimes.anchor_decoder import AnchorDecoder
from edgekit.runtimes.anchors import grid_anchors
from edgekit.runtimes.boxes import decode_deltas
from edgekit.runtimes.tasks.detection import Detection, DetectionResult

from .dense_graphs import COLOURS, STRIDES, SURE, dense_bundle, detector

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
ANCHORS = {"anchors": {"strides": list(STRIDES)}}


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def candidates_by_definition(decoder, logits, deltas, size, valid):
    """Per level all (anchor, class) above the threshold, best first, the best ``candidates``."""
    anchors = grid_anchors(
        size, decoder.strides, decoder.octave_base_scale, decoder.scales_per_octave, decoder.ratios
    )
    found, start = set(), 0
    for count in decoder.counts(size):
        pairs = [
            (a, c)
            for a in range(start, start + count)
            for c in range(logits.shape[1])
            if sigmoid(float(logits[a, c])) > decoder.score_threshold
        ]
        pairs.sort(key=lambda pair: (-logits[pair], pair))
        for a, c in pairs[: decoder.candidates]:
            (box,) = decode_deltas(anchors[a : a + 1], deltas[a : a + 1], decoder.delta_std)
            x1, x2 = (min(max(x, 0), valid[1]) for x in box[[0, 2]].tolist())
            y1, y2 = (min(max(y, 0), valid[0]) for y in box[[1, 3]].tolist())
            if x2 > x1 and y2 > y1:
                found.add((a, c, x1, y1, x2, y2))
        start += count
    return found


@settings(deadline=None, database=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 3),
    st.sampled_from([1, 7, 50, 10_000]),
    st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0]),
)
def test_candidates_are_the_best_of_each_level(seed, valid, classes, limit, threshold):
    rng = np.random.default_rng(seed)
    size = (valid[0] + 5, valid[1] + 3)
    decoder = AnchorDecoder(
        strides=(8, 16),
        scales_per_octave=2,
        ratios=(0.5, 2.0),
        delta_std=(0.1, 0.1, 0.2, 0.2),
        score_threshold=threshold,
        candidates=limit,
    )
    count = sum(decoder.counts(size))
    logits = (rng.integers(-12, 8, (count, classes)) / 2).astype(np.float32)  # with many ties
    deltas = rng.normal(0, 3, (count, 4)).astype(np.float32)
    found = decoder.decode(logits, deltas, size, valid)
    want = candidates_by_definition(decoder, logits, deltas, size, valid)
    assert len(found.scores) == len(want)
    expected = {(*(round(v, 3) for v in row[2:]), row[1]) for row in want}
    got = zip(found.boxes.astype(float).round(3).tolist(), found.classes.tolist(), strict=True)
    assert {(*(round(v, 3) for v in box), kind) for box, kind in got} == expected
    scores = sorted(sigmoid(float(logits[a, c])) for a, c, *_ in want)
    np.testing.assert_allclose(sorted(found.scores), scores, rtol=1e-6)


@pytest.fixture
def open_task(tmp_path):
    """``open_task(size=…, **parameters)``: the detector of colours on ONNX Runtime."""
    opened = []

    def make(size=(64, 64), dynamic=None, labels=COLOURS, **params):
        path = tmp_path / f"bundle{len(opened)}"
        made = dense_bundle(
            path, "detection", detector, size, {**ANCHORS, **params}, dynamic, labels
        )
        session = load(bundle := Bundle.open(made), "onnxruntime", threads=1)
        opened.append(session)
        return tasks.for_bundle(bundle, session)

    yield make
    for session in opened:
        session.close()


def picture(height, width, *patches):
    """Black, with patches (x, y, side, colour)."""
    made = np.zeros((height, width, 3), np.uint8)
    for x, y, side, colour in patches:
        made[y : y + side, x : x + side] = colour
    return made


def found(result):
    return {(one.label, *(round(v, 3) for v in one.box)) for one in result.detections}


def test_boxes_of_the_coloured_cells(open_task):
    result = open_task()(picture(64, 64, (16, 8, 8, RED), (40, 32, 8, BLUE), (32, 48, 16, GREEN)))
    assert [round(one.score, 4) for one in result.shown] == [round(sigmoid(SURE), 4)] * 7
    want = {("red", 16, 8, 24, 16), ("blue", 40, 32, 48, 40), ("green", 32, 48, 48, 64)}
    cells = {("green", x, y, x + 8, y + 8) for x in (32, 40) for y in (48, 56)}
    assert {(one.label, *one.box) for one in result.shown} == want | cells
    assert result.size == (64, 64)


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_boxes_are_in_pixels_of_the_picture(open_task, scale):
    """A picture of another size and shape is letterboxed, and its boxes come back."""
    source = picture(32 * scale, 64 * scale, (16 * scale, 8 * scale, 8 * scale, RED))
    task = open_task()
    (shown,) = task(source).shown
    assert shown.label == "red"
    np.testing.assert_allclose(shown.box, np.array([16, 8, 24, 16]) * scale, rtol=1e-5)
    tall = source.transpose(1, 0, 2)
    (shown,) = task(np.ascontiguousarray(tall)).shown
    np.testing.assert_allclose(shown.box, np.array([8, 16, 16, 24]) * scale, rtol=1e-5)


def test_a_stretched_picture(open_task):
    source = picture(128, 64, (16, 32, 8, RED), (16, 40, 8, RED))
    (shown,) = open_task(fit="stretch")(source).shown
    np.testing.assert_allclose(shown.box, [16, 32, 24, 48], rtol=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (32, 64), (64, 40), (50, 100)])
def test_dynamic_height_and_width(open_task, shape):
    task = open_task(("h", "w"), {"h": (32, 128), "w": (32, 128)}, resolution=[96, 96])
    height, width = shape
    scale = 96 / max(shape)
    begun = task.begin(picture(height, width, (0, 0, min(shape), BLUE)))
    padded = begun.inputs["image"].shape[2:]
    assert all(side % 32 == 0 and side <= 96 for side in padded)
    result = begun.finish(task.session.run(begun.inputs))
    inside = min(shape) * scale // 16 * 16 / scale
    assert max(one.box[2] for one in result.shown) >= inside - 1e-3
    assert {one.label for one in result.shown} == {"blue"}
    assert all(one.box[2] <= width and one.box[3] <= height for one in result.detections)


def test_nothing_is_found_in_the_padding(open_task):
    """A red picture fills the upper half of the input; below it is black."""
    result = open_task()(picture(32, 64, (0, 0, 64, RED)))
    assert len(result.shown) == 4 * 8 + 2 * 4
    assert max(one.box[3] for one in result.detections) <= 32


def test_a_box_outside_of_the_picture_is_none(open_task):
    """What is found where there is only padding has no area in the picture."""
    task = open_task(max_detections=10**6, score_threshold=0.0, candidates=10**6)
    whole = task(picture(64, 64, (0, 0, 64, RED)))
    half = task(picture(32, 64, (0, 0, 64, RED)))
    assert all(one.box[3] > one.box[1] and one.box[2] > one.box[0] for one in half.detections)
    assert len(half.detections) < len(whole.detections)


def test_thresholds_and_limits(open_task):
    source = picture(64, 64, *((x, y, 8, RED) for x in range(0, 64, 16) for y in range(0, 64, 16)))
    assert len(open_task()(source).shown) == 16
    few = open_task(max_detections=3)(source)
    # All score the same: the first in the order of the anchors.
    assert [one.box[:2] for one in few.detections] == [(0, 0), (16, 0), (32, 0)]
    assert open_task(score_threshold=0.99)(source).detections == ()
    assert open_task(show_threshold=0.99)(source).shown == ()
    assert len(open_task(candidates=2)(source).shown) == 2
    # The weak logits of the other anchors come in; all that overlap their better are left out.
    every = {"score_threshold": 0.0, "candidates": 10**6, "max_detections": 10**6}
    loose = open_task(**every)(source).detections
    strict = open_task(**every, iou_threshold=0.01)(source).detections
    assert 48 < len(strict) < len(loose)


def test_the_result_in_words_and_as_json(open_task):
    result = open_task()(picture(64, 64, (16, 8, 8, RED)))
    (one,) = result.shown
    assert result.describe() == (
        f"1 object with 30 % or more\n {100 * one.score:.2f} %  red  16,8 to 24,16"
    )
    document = json.loads(json.dumps(result.to_json()))
    assert document["size"] == [64, 64]
    assert document["detections"][0] == {
        "label": "red",
        "index": 0,
        "score": pytest.approx(sigmoid(SURE)),
        "box": pytest.approx([16, 8, 24, 16]),
    }
    assert open_task()(picture(64, 64)).describe() == "0 objects with 30 % or more"


def test_labels_are_optional_and_must_fit(open_task):
    source = picture(64, 64, (16, 8, 8, GREEN))
    assert open_task(labels=None)(source).shown[0].label == "class 1"
    with pytest.raises(BundleError, match="3 classes do not fit 2 labels"):
        open_task(labels=("a", "b"))(source)


def test_outputs_that_make_no_sense(open_task):
    task = open_task()
    outputs = task.session.run(task.prepare(picture(64, 64)))
    for name, bad in (("class_logits", np.inf), ("box_deltas", np.nan)):
        broken = {key: value.copy() for key, value in outputs.items()}
        broken[name][0, 5, 1] = bad
        with pytest.raises(ParityError, match=r"not finite.*edgekit verify"):
            task.finish(broken)
    short = {name: value[:, :-9] for name, value in outputs.items()}
    with pytest.raises(BundleError, match=r"has 720 anchors.*\(1, 720, 4\).*\[1, 711, 3\]"):
        task.finish(short)
    assert task.finish(outputs).size == (64, 64)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"anchors": {"strides": [8, 16, 32]}}, "a picture of 64x64 has 756 anchors"),
        ({"anchors": {"strides": []}}, "anchors.strides"),
        ({"anchors": {"stride": [8]}}, "anchors.stride: Extra inputs"),
        ({"outputs": {"scores": "scores"}}, "output 'scores' is not one"),
        ({"decoder": "magic"}, "decoder"),
        ({"fit": "crop"}, "fit"),
        ({"resize": 70}, 'resize goes with fit "crop"'),
        ({"show_treshold": 0.5}, "show_treshold: Extra inputs"),
        ({"iou_threshold": 2}, "iou_threshold"),
    ],
)
def test_parameters_that_make_no_sense(open_task, changes, reason):
    with pytest.raises(BundleError, match=reason) as caught:
        open_task(**changes)
    assert "\n" not in str(caught.value)


def drawn(score=0.9, **options):
    boxes = (Detection("red", 0, score, (30.0, 40.0, 130.0, 160.0)),)
    return DetectionResult(boxes, (200, 300), **options).draw(Image.new("RGB", (300, 200)))


def test_boxes_are_drawn_with_their_labels():
    pixels = np.asarray(drawn())
    painted = pixels.any(2)
    # The frame's corners, the label above it, nothing inside.
    assert painted[40, 30]
    assert painted[159, 129]
    assert not painted[160:].any()
    assert not painted[:, 130:].any()
    assert painted[28:39, 31:60].mean() > 0.9
    assert not painted[50:150, 40:120].any()
    assert not np.asarray(drawn(show_threshold=0.95)).any()


def test_text_is_readable_on_every_colour():
    from edgekit.runtimes.tasks.drawing import colour, text_colour

    def luminance(tint):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in tint]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    tints = [colour(i) for i in range(200)]
    for tint in tints:
        one, other = (luminance([c / 255 for c in x]) for x in (tint, text_colour(tint)))
        assert (max(one, other) + 0.05) / (min(one, other) + 0.05) > 4.5  # WCAG 2, level AA
    near = [
        math.dist(tints[i], tints[j]) for i in range(100) for j in range(i + 1, min(i + 8, 100))
    ]
    assert min(near) > 40


def test_a_label_stays_inside_the_picture():
    corner = Detection("a long name of a class", 3, 0.5, (290.0, 0.0, 300.0, 10.0))
    pixels = np.asarray(
        DetectionResult((corner,), (200, 300)).draw(Image.new("RGB", (300, 200), "white"))
    )
    assert (pixels[5, 150:290] != 255).any()


def test_another_picture_is_not_drawn_on():
    with pytest.raises(InputError, match="another size"):
        DetectionResult((), (10, 10)).draw(Image.new("RGB", (9, 10)))
