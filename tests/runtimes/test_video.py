"""A stream of pictures: overlapped is exactly one after the other."""

import threading

import pytest

from edgekit.errors import InputError
from edgekit.runtimes.detector import Detector
from edgekit.runtimes.tracking import Tracker, TrackerSettings
from edgekit.runtimes.video import follow

from ..dart_micro import RUNTIMES

NAMES = ("person", "car", "dog", "kite", "boat")
LOOSE = TrackerSettings(high=0.2, low=0.0, confirm=1)


@pytest.fixture(scope="module", params=RUNTIMES)
def detector(request, dart_bundle, tmp_path_factory):
    with Detector.open(
        dart_bundle,
        NAMES,
        runtime=request.param,
        threads=1,
        threshold=0.1,
        cache=tmp_path_factory.mktemp("cache"),
    ) as opened:
        yield opened


def answers(frames):
    return [(frame.number, frame.result.to_json(), frame.tracks) for frame in frames]


def test_overlapped_is_bitwise_sequential_frame_by_frame(detector, frames):
    pictures = frames(8)
    one = answers(follow(detector, pictures, Tracker(LOOSE), overlap=False))
    other = answers(follow(detector, pictures, Tracker(LOOSE)))
    assert one == other
    assert len({str(result) for _, result, _ in one}) > 4, "the frames do differ"
    assert any(tracks for *_, tracks in one)
    # The control: another order of the frames is another answer.
    assert answers(follow(detector, pictures[::-1], Tracker(LOOSE))) != one


def test_the_next_backbone_runs_beside_this_detection(detector, frames, monkeypatch):
    """Not by time: the first frame is answered only once the second is being looked at."""
    looks, second = [], threading.Event()
    look, find = detector.look, detector.find

    def looking(frame):
        looks.append(threading.current_thread().name)
        if len(looks) == 2:
            second.set()
        return look(frame)

    def finding(one):
        assert second.wait(timeout=30)
        return find(one)

    monkeypatch.setattr(detector, "look", looking)
    monkeypatch.setattr(detector, "find", finding)
    assert len(list(follow(detector, frames(4)))) == 4
    assert len(looks) == 4
    assert threading.current_thread().name not in looks


def test_classes_changed_in_between_hold_for_the_next_frame(detector, frames):
    taken = follow(detector, frames(3), track=False)
    next(taken)
    detector.classes = ["dog"]
    rest = list(taken)
    detector.classes = NAMES
    assert all({d.label for d in frame.result.detections} <= {"dog"} for frame in rest)


def test_a_broken_frame_stops_after_those_before_it(detector, frames):
    for overlap in (True, False):
        taken = follow(detector, [*frames(2), b"no picture"], overlap=overlap)
        assert [next(taken).number, next(taken).number] == [0, 1]
        with pytest.raises(InputError):
            next(taken)


def test_stopping_early_leaves_the_detector_usable(detector, frames):
    before = detector.detect(frames(1)[0]).to_json()
    for _ in follow(detector, frames(5)):
        break
    assert detector.detect(frames(1)[0]).to_json() == before
    assert not [t for t in threading.enumerate() if t.name.startswith("backbone")]


def test_no_frames(detector):
    assert list(follow(detector, [])) == []
