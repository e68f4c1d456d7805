"""Identities: which box of this frame is which of the last."""

import numpy as np
import pytest

from edgekit.errors import InputError, UsageError
from edgekit.runtimes.boxes import iou
from edgekit.runtimes.tasks.detection import Detection
from edgekit.runtimes.tracking import Tracker, TrackerSettings
from edgekit.runtimes.tracking_assignment import assign
from edgekit.runtimes.tracking_motion import Motion

NAMES = ("person", "car")


def seen(x, y=0.0, score=0.9, index=0, side=20.0):
    return Detection(NAMES[index], index, score, (x, y, x + side, y + side))


def run(frames, settings=None):
    tracker = Tracker(settings)
    return [tracker.update(frame) for frame in frames]


def identities(tracks):
    return [track.identity for track in tracks]


def test_assignment_is_the_best_there_is():
    """Against SciPy, with the bound written into the matrix as the cost of staying alone."""
    optimize = pytest.importorskip("scipy.optimize")
    random = np.random.default_rng(0)
    for trial in range(200):
        rows, columns = random.integers(1, 9, 2)
        cost = random.random((rows, columns))
        if trial % 3 == 0:
            cost = np.round(cost * 4) / 4  # many ties
        limit = random.random()
        whole = np.full((rows + columns,) * 2, limit / 2)
        whole[:rows, :columns] = cost
        whole[rows:, columns:] = 0
        expected = whole[optimize.linear_sum_assignment(whole)].sum()
        pairs = assign(cost, limit)
        alone = rows + columns - 2 * len(pairs)
        got = sum(cost[pair] for pair in pairs) + alone * limit / 2
        assert got == pytest.approx(expected)
        assert all(cost[pair] <= limit for pair in pairs)
        assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)


def test_the_best_pairing_is_not_the_greedy_one():
    cost = np.array([[0.1, 0.2], [0.15, 0.9]])
    assert assign(cost, 1.0) == [(0, 1), (1, 0)]


def test_no_costs_and_wrong_ones():
    assert assign(np.zeros((0, 3)), 1.0) == []
    for wrong in (np.zeros(3), np.array([[np.nan]])):
        with pytest.raises(InputError):
            assign(wrong, 1.0)


def test_motion_learns_a_velocity():
    motion = Motion(np.array([0.0, 0, 20, 20]))
    for frame in range(1, 30):
        motion.predict()
        motion.correct(np.array([4.0 * frame, 0, 4.0 * frame + 20, 20]))
    for _ in range(5):
        motion.predict()
    assert motion.box == pytest.approx([4 * 34, 0, 4 * 34 + 20, 20], abs=1.0)


def test_motion_believes_a_wild_box_in_part():
    motion = Motion(np.array([0.0, 0, 20, 20]))
    for _ in range(10):
        motion.predict()
        motion.correct(np.array([0.0, 0, 20, 20]))
    motion.predict()
    motion.correct(np.array([10.0, 0, 30, 20]))
    assert 0 < motion.box[0] < 10


def test_a_track_is_shown_from_its_third_frame_on_and_keeps_its_identity():
    tracks = run([[seen(3.0 * t)] for t in range(8)])
    assert [identities(one) for one in tracks] == [[], [], *[[1]] * 6]
    assert tracks[-1][0].box == (21.0, 0.0, 41.0, 20.0)


def test_two_that_cross_keep_theirs():
    """Without a velocity the two would be exchanged where they meet."""
    frames = [[seen(5.0 * t, 0), seen(100 - 5.0 * t, 12)] for t in range(21)]
    tracks = run(frames)
    last = {track.identity: track.box[0] for track in tracks[-1]}
    assert last == {1: 100.0, 2: 0.0}


def test_a_short_absence_keeps_the_identity_and_a_long_one_does_not():
    settings = TrackerSettings(forget=5)
    for gap, expected in ((4, [1]), (9, [2])):
        frames = [[seen(10)]] * 5 + [[]] * gap + [[seen(10)]] * 5
        assert identities(run(frames, settings)[-1]) == expected


def test_an_unsure_box_prolongs_a_track_and_begins_none():
    frames = [[seen(0)]] * 3 + [[seen(0, score=0.2)]] * 10
    tracks = run(frames)
    assert all(identities(one) == [1] for one in tracks[2:])
    assert tracks[-1][0].score == 0.2
    assert run([[seen(0, score=0.2)]] * 10)[-1] == ()
    assert run([[seen(0)]] * 3 + [[seen(0, score=0.05)]])[-1] == ()


def test_what_is_seen_twice_only_is_none():
    assert run([[seen(0)], [seen(0)], [], [seen(0)], [seen(0)]])[-1] == ()


def test_a_class_that_wavers_is_one_thing_by_majority():
    frames = [[seen(0, index=int(t == 5))] for t in range(9)]
    tracks = run(frames)
    assert {identities(one)[0] for one in tracks[2:]} == {1}
    assert {one[0].label for one in tracks[2:]} == {"person"}
    # A change that lasts is taken over.
    changed = run([[seen(0)]] * 4 + [[seen(0, index=1)]] * 12)
    assert (changed[-1][0].identity, changed[-1][0].label) == (1, "car")


def test_two_classes_in_one_place_are_two_things():
    frames = [[seen(t, index=0), seen(t + 1.0, index=1)] for t in range(8)]
    for one in run(frames)[2:]:
        assert [(track.identity, track.label) for track in one] == [(1, "person"), (2, "car")]


def test_two_tracks_of_one_thing_become_one():
    frames = [[seen(0), seen(40)]] * 4 + [[seen(2.0 * t), seen(40 - 2.0 * t)] for t in range(12)]
    last = run(frames)[-1]
    boxes = np.array([track.box for track in last])
    assert not np.triu(iou(boxes, boxes) > 0.85, 1).any()


def test_identities_are_never_given_twice_and_reset_begins_anew():
    tracker = Tracker(TrackerSettings(forget=2))
    given = []
    for start in range(0, 500, 100):
        for _ in range(4):
            given += identities(tracker.update([seen(start)]))
        for _ in range(4):
            tracker.update([])
    assert sorted(set(given)) == [1, 2, 3, 4, 5]
    tracker.reset()
    for _ in range(3):
        last = tracker.update([seen(0)])
    assert identities(last) == [1]


def test_empty_frames_and_wrong_settings():
    assert run([[], []]) == [(), ()]
    for wrong in (TrackerSettings(high=2), TrackerSettings(confirm=0)):
        with pytest.raises(UsageError):
            Tracker(wrong)
