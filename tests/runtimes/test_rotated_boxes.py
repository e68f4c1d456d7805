"""Turned boxes against a plain polygon clipper, and against the golden overlaps."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runtimes import rotated_boxes as module
from edgekit.runtimes.rotated_boxes import QUARTER, bev_iou, footprints, nms, pair_iou

# Whole and half metres and right angles meet and coincide; that is where clippers err.
PLACE = st.one_of(st.integers(-4, 4).map(lambda v: v / 2), st.floats(-4, 4))
SIDE = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0]), st.floats(0.1, 5))
ANGLE = st.one_of(st.integers(-4, 4).map(lambda v: v * math.pi / 4), st.floats(-7, 7))
BOX = st.tuples(PLACE, PLACE, st.just(0.0), SIDE, SIDE, st.just(1.0), ANGLE)


def clip(polygon, a, b):
    """The part of a polygon to the left of the line from a to b (Sutherland and Hodgman)."""
    kept = []
    for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        side_p = (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
        side_q = (b[0] - a[0]) * (q[1] - a[1]) - (b[1] - a[1]) * (q[0] - a[0])
        if side_p >= 0:
            kept.append(p)
        if (side_p > 0 > side_q) or (side_p < 0 < side_q):
            t = side_p / (side_p - side_q)
            kept.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return kept


def area(polygon):
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(p[0] * q[1] - p[1] * q[0] for p, q in pairs)) / 2


def overlap(a, b):
    """Intersection over union by definition."""
    first, second = ([tuple(c) for c in footprints(np.array([box]))[0]] for box in (a, b))
    common = first
    for start, end in zip(second, second[1:] + second[:1], strict=True):
        common = clip(common, start, end)
        if not common:
            return 0.0
    inside = area(common)
    union = area(first) + area(second) - inside
    return inside / union if min(area(first), area(second)) > 0 else 0.0


@settings(deadline=None, max_examples=400)
@given(BOX, BOX)
def test_overlap_is_that_of_the_polygons(a, b):
    found = bev_iou(np.array([a]), np.array([b]))[0, 0]
    assert found == pytest.approx(overlap(a, b), abs=1e-9)
    assert bev_iou(np.array([b]), np.array([a]))[0, 0] == pytest.approx(found, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(BOX, BOX, ANGLE, PLACE)
def test_overlap_does_not_change_when_both_are_moved(a, b, angle, step):
    def moved(box):
        x, y = box[0] + step, box[1] - step
        c, s = math.cos(angle), math.sin(angle)
        return [x * c - y * s, x * s + y * c, *box[2:6], box[6] + angle]

    before = pair_iou(np.array([a]), np.array([b]))[0]
    assert pair_iou(np.array([moved(a)]), np.array([moved(b)]))[0] == pytest.approx(
        before, abs=1e-9
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(BOX, max_size=12), st.sampled_from([0.0, 0.3, 0.7]), st.booleans(), st.data())
def test_suppression_is_greedy_by_definition(boxes, threshold, turn, data):
    scores = [data.draw(st.sampled_from([0.1, 0.5, 0.9])) for _ in boxes]
    turned = [(*box[:6], box[6] + QUARTER * turn) for box in boxes]
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        overlaps = [overlap(turned[k], turned[i]) for k in kept]
        if any(abs(one - threshold) < 1e-9 for one in overlaps):
            return  # either answer is right
        if all(one <= threshold for one in overlaps):
            kept.append(i)
    arrays = np.array(boxes).reshape(-1, 7), np.array(scores)
    assert nms(*arrays, threshold, quarter_turn=turn).tolist() == kept
    assert nms(*arrays, threshold, quarter_turn=turn, limit=2).tolist() == kept[:2]


def test_golden_overlaps_in_both_rotations(shared_data):
    with np.load(shared_data / "golden/dsvt/nms_iou_case.npz", allow_pickle=False) as golden:
        boxes = golden["boxes"].astype(np.float64)
        np.testing.assert_allclose(bev_iou(boxes, boxes), golden["iou_true_rotation"], atol=1e-6)
        boxes[:, 6] += QUARTER
        np.testing.assert_allclose(bev_iou(boxes, boxes), golden["iou_as_coded_waymo"], atol=1e-6)


def test_the_published_rotation_takes_cars_behind_each_other_for_cars_side_by_side():
    car = [0, 0, 0, 4.5, 2, 1.6, 0]
    behind, beside = [2.5, *car[1:]], [0, 2.5, *car[2:]]
    scores = np.array([0.9, 0.8])
    for other, true, published in ((behind, 1, 2), (beside, 2, 1)):
        pair = np.array([car, other])
        assert len(nms(pair, scores, 0.2)) == true
        assert len(nms(pair, scores, 0.2, quarter_turn=True)) == published


def test_what_is_not_finite_is_never_kept():
    boxes = np.array([[0, 0, 0, 1, 1, 1, 0], [np.nan, 0, 0, 1, 1, 1, 0], [5, 0, 0, 1, 1, 1, 0]])
    assert nms(boxes, np.array([0.1, 0.9, np.nan]), 0.5).tolist() == [0]
    assert bev_iou(boxes[1:2], boxes)[0].tolist() == [0, 0, 0]


def test_many_boxes_are_compared_in_blocks():
    stream = np.random.default_rng(0)
    boxes = np.concatenate([stream.uniform(-40, 40, (700, 2)), np.ones((700, 5))], axis=1)
    found = bev_iou(boxes, boxes)
    assert found.diagonal() == pytest.approx(1)
    pairs = stream.integers(0, 700, (50, 2))
    for i, j in pairs:
        assert found[i, j] == pytest.approx(overlap(boxes[i], boxes[j]), abs=1e-9)


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match=r"\(N, 7\)"):
        bev_iou(np.zeros((2, 4)), np.zeros((2, 7)))
    with pytest.raises(InputError, match="3 scores"):
        nms(np.zeros((2, 7)), np.zeros(3), 0.5)


def test_examples_in_docstrings():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
