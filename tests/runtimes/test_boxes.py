"""Box arithmetic against its definition, one pair at a time, in plain Python."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runtimes.boxes import (
    MAX_RATIO,
    clip_boxes,
    cxcywh_to_xyxy,
    decode_deltas,
    iou,
    nms,
    nms_per_class,
)

# Small integers meet, touch and tie often; that is where implementations differ.
SMALL = st.integers(-3, 8).map(float)
WILD = st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -0.0])


def area_of(box):
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def overlap(a, b):
    """Intersection over union of two boxes, by definition."""
    if not all(map(math.isfinite, [*a, *b])):
        return 0.0
    inside = area_of([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    union = area_of(a) + area_of(b) - inside
    return inside / union if union > 0 else 0.0


def suppress(boxes, scores, classes, threshold):
    """Every box that no better box of its class, itself kept, overlaps too much."""
    usable = [
        i
        for i in range(len(boxes))
        if all(map(math.isfinite, boxes[i])) and not math.isnan(scores[i])
    ]
    kept = []
    for i in sorted(usable, key=lambda i: (-scores[i], i)):
        if not any(
            classes[i] == classes[k] and overlap(boxes[i], boxes[k]) > threshold for k in kept
        ):
            kept.append(i)
    return kept


@st.composite
def boxes(draw, coordinates=SMALL):
    rows = draw(st.lists(st.tuples(*[coordinates] * 4), max_size=12))
    ordered = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in rows]
    # Some as they come, with their corners the wrong way round: no area.
    flip = draw(st.booleans())
    kind = draw(st.sampled_from([np.float32, np.float64]))
    return np.array(rows if flip else ordered, kind).reshape(-1, 4)


@st.composite
def scored(draw):
    found = draw(boxes(st.one_of(SMALL, SMALL, SMALL, WILD)))
    count = len(found)
    score = st.one_of(st.sampled_from([0.25, 0.5, 0.75]), st.floats(-1, 1), st.just(math.nan))
    scores = draw(st.lists(score, min_size=count, max_size=count))
    classes = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    return found, np.array(scores, np.float64), np.array(classes, int)


@settings(deadline=None, database=None)
@given(boxes(), boxes())
def test_overlap_is_as_defined(a, b):
    found = iou(a, b)
    assert found.shape == (len(a), len(b))
    assert found.dtype == np.result_type(a, b)
    want = [[overlap(x, y) for y in b.tolist()] for x in a.tolist()]
    np.testing.assert_allclose(found, np.reshape(want, found.shape), rtol=1e-6)
    np.testing.assert_array_equal(found, iou(b, a).T)


@settings(deadline=None, database=None)
@given(boxes(st.floats(-1e4, 1e4)), st.floats(-50, 50), st.sampled_from([0.25, 2.0, 8.0]))
def test_overlap_does_not_depend_on_place_and_scale(a, shift, scale):
    a = a.astype(np.float64)
    found = iou(a, a)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    has_area = (a[:, 2] > a[:, 0]) & (a[:, 3] > a[:, 1])
    big = has_area & ((a[:, 2:] - a[:, :2]).min(1, initial=1e9) > 1e-3)
    np.testing.assert_allclose(found.diagonal()[big], 1, rtol=1e-12)
    moved = (a[big] + shift) * scale
    np.testing.assert_allclose(iou(moved, moved), found[big][:, big], atol=1e-6)


def test_known_overlaps():
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 5], [5, 5, 15, 15], [10, 0, 20, 10], [3, 3, 3, 3]], np.float32
    )
    np.testing.assert_allclose(iou(a, b), [[1, 0.5, 25 / 175, 0, 0]], rtol=1e-6)


def test_areas_beyond_float32():
    far = np.array([[0, 0, 1e30, 1e30], [0, 0, 1e30, 5e29]], np.float32)
    np.testing.assert_allclose(iou(far, far), [[1, 0.5], [0.5, 1]], rtol=1e-6)


@settings(deadline=None, database=None, max_examples=300)
@given(scored(), st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.7, 1.0]), st.integers(0, 12))
def test_suppression_is_as_defined(case, threshold, limit):
    found, scores, classes = case
    together = suppress(found.tolist(), scores, np.zeros_like(classes), threshold)
    apart = suppress(found.tolist(), scores, classes, threshold)
    assert nms(found, scores, threshold).tolist() == together
    assert nms(found, scores, threshold, limit).tolist() == together[:limit]
    assert nms_per_class(found, scores, classes, threshold).tolist() == apart
    assert nms_per_class(found, scores, classes, threshold, limit).tolist() == apart[:limit]


@pytest.mark.parametrize("size", [4, 40])
def test_suppression_of_more_boxes_than_are_settled_at_once(size, monkeypatch):
    rng = np.random.default_rng(size)
    corner = rng.uniform(0, 100, (700, 2))
    found = np.concatenate([corner, corner + rng.uniform(1, size, (700, 2))], 1).astype(np.float32)
    scores = rng.integers(0, 50, 700) / 50  # with many ties
    classes = rng.integers(0, 3, 700)
    want = suppress(found.tolist(), scores, np.zeros(700), 0.3)
    assert 128 < len(want) < 700
    assert nms(found, scores, 0.3).tolist() == want
    assert nms(found, scores, 0.3, 130).tolist() == want[:130]
    apart = suppress(found.tolist(), scores, classes, 0.3)
    assert nms_per_class(found, scores, classes, 0.3, 200).tolist() == apart[:200]
    # What does not fit into memory at once is compared in smaller parts.
    monkeypatch.setattr("edgekit.runtimes.boxes._PAIRS", 5000)
    assert nms(found, scores, 0.3).tolist() == want


def test_nothing_to_suppress():
    for empty in (np.zeros((0, 4), np.float32), np.full((3, 4), np.nan)):
        scores = np.zeros(len(empty))
        for found in (nms(empty, scores, 0.5), nms_per_class(empty, scores, scores, 0.5, 10)):
            assert (found.shape, found.dtype) == ((0,), np.int64)
    assert nms(np.eye(4), np.ones(4), 0.5, limit=0).size == 0


def test_corners_from_centres():
    found = cxcywh_to_xyxy(np.array([[5, 6, 2, 4], [0, 0, 0, 0]], np.float32))
    assert found.tolist() == [[4, 4, 6, 8], [0, 0, 0, 0]]
    assert found.dtype == np.float32


def test_cut_at_the_borders():
    outside = np.array([[-5, -5, 5, 5], [90, 40, 200, 200], [300, 3, 400, 9], [np.nan, 0, 1, 1]])
    cut = clip_boxes(outside, (50, 100))
    assert cut[:3].tolist() == [[0, 0, 5, 5], [90, 40, 100, 50], [100, 3, 100, 9]]
    assert np.isnan(cut[3, 0])


def test_decoding_known_values():
    """The example in the documentation of MMDetection's delta2bbox."""
    anchors = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [5, 5, 5, 5]], np.float32)
    deltas = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 2, -1], [0.7, -1.9, -0.5, 0.3]])
    found = clip_boxes(decode_deltas(anchors, deltas.astype(np.float32)), (32, 32))
    want = [
        [0, 0, 1, 1],
        [0.1409, 0.1409, 2.8591, 2.8591],
        [0, 0.3161, 4.1945, 0.6839],
        [5, 5, 5, 5],
    ]
    np.testing.assert_allclose(found, want, atol=1e-4)
    assert found.dtype == np.float32


@settings(deadline=None, database=None)
@given(
    st.lists(st.tuples(*[st.floats(-100, 100)] * 2, *[st.floats(0.5, 100)] * 2), min_size=1),
    st.tuples(*[st.floats(-3, 3)] * 4),
    st.tuples(*[st.floats(0.05, 2)] * 4),
)
def test_decoding_undoes_encoding(rows, shift, std):
    anchors = cxcywh_to_xyxy(np.array(rows))
    deltas = np.array([shift] * len(rows))
    dx, dy, dw, dh = (deltas * std).T
    x, y, w, h = np.array(rows).T
    sides = w * np.exp(np.clip(dw, -MAX_RATIO, MAX_RATIO)), h * np.exp(np.clip(dh, -4.135, 4.135))
    want = cxcywh_to_xyxy(np.stack([x + w * dx, y + h * dy, *sides], 1))
    np.testing.assert_allclose(decode_deltas(anchors, deltas, std), want, rtol=1e-3, atol=1e-6)


def test_a_decoded_side_is_bounded():
    anchor = np.array([[0, 0, 10, 10]] * 3, np.float32)
    wild = np.array([[0, 0, 1e4, -1e4], [0, 0, np.inf, -np.inf], [np.nan, 0, 0, 0]], np.float32)
    found = decode_deltas(anchor, wild)
    np.testing.assert_allclose(found[0, 2] - found[0, 0], 625, rtol=1e-5)
    np.testing.assert_allclose(found[0, 3] - found[0, 1], 0.16, rtol=1e-4)
    np.testing.assert_array_equal(found[0], found[1])
    assert np.isnan(found[2, [0, 2]]).all()
    assert decode_deltas(anchor, wild, max_ratio=0)[0].tolist() == [0, 0, 10, 10]


def test_half_precision_and_integers_are_taken():
    fine = decode_deltas(
        np.array([[0, 0, 4000, 8]], np.float16), np.full((1, 4), 0.001, np.float16)
    )
    assert fine.dtype == np.float32
    assert iou(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 1]])).tolist() == [[0.5]]


@pytest.mark.parametrize(
    "call",
    [
        lambda: iou(np.zeros((2, 5)), np.zeros((2, 4))),
        lambda: cxcywh_to_xyxy(np.zeros(4)),
        lambda: nms(np.zeros((2, 4)), np.zeros(3), 0.5),
        lambda: nms_per_class(np.zeros((2, 4)), np.zeros(2), np.zeros(3), 0.5),
        lambda: decode_deltas(np.zeros((2, 4)), np.zeros((1, 4))),
    ],
)
def test_what_does_not_fit(call):
    with pytest.raises(InputError, match=r"holds no boxes|do not fit"):
        call()
