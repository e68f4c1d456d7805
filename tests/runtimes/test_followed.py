"""A whole clip as one answer: what is found, by whom it is followed, and what is drawn."""

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.runtimes.clips import Clip
from edgekit.runtimes.detector import Detector
from edgekit.runtimes.followed import Followed
from edgekit.runtimes.tracking import Tracker, TrackerSettings
from edgekit.runtimes.video import follow

NAMES = ("person", "car", "dog")
LOOSE = TrackerSettings(high=0.1, confirm=2)


class Frames(Clip):
    """A clip out of memory."""

    def __init__(self, frames):
        super().__init__(None, 10.0)
        object.__setattr__(self, "frames", frames)

    def __iter__(self):
        return iter(self.frames)


@pytest.fixture(scope="module")
def detector(dart_bundle, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    options = {"runtime": "onnxruntime", "threads": 1, "threshold": 0.1, "cache": cache}
    with Detector.open(dart_bundle, NAMES, **options) as opened:
        yield opened


@pytest.fixture
def made(detector, frames):
    def make(count=6, **options):
        return Followed(detector, Frames(frames(count)), LOOSE, **options)

    return make


def test_the_answer_is_that_of_one_frame_after_the_other(made, detector, frames):
    """Through the overlapped pipeline: bitwise what the sequential one says."""
    one_by_one = list(follow(detector, frames(6), Tracker(LOOSE), overlap=False))
    document = made().to_json()
    for frame, other in zip(document["frames"], one_by_one, strict=True):
        assert frame == {k: v for k, v in other.to_json().items() if k != "weights"}
    assert (document["rate"], document["weights"]) == (10.0, "random (seed 0)")
    seen = {
        track["identity"]: [
            (f["number"], t["score"], t["label"])
            for f in document["frames"]
            for t in f["tracks"]
            if t["identity"] == track["identity"]
        ]
        for track in document["tracks"]
    }
    assert seen
    for story in document["tracks"]:
        numbers, scores, labels = zip(*seen[story["identity"]], strict=True)
        assert (story["first"], story["last"]) == (numbers[0], numbers[-1])
        assert (story["frames"], story["score"]) == (len(numbers), max(scores))
        assert story["label"] == labels[-1]


def test_each_frame_is_drawn_into_its_own_picture(made, frames):
    followed = made()
    drawn = [np.asarray(picture) for picture in followed.pictures()]
    pictures = frames(6)
    assert len(drawn) == len(pictures) == len(followed.frames)
    changed = [(one != other).any(-1).mean() for one, other in zip(drawn, pictures, strict=True)]
    # In the first frame nothing is confirmed yet: the remark alone is drawn.
    assert 0 < changed[0] < min(changed[1:])
    # Had they been drawn into their neighbours, the bright square would differ, too.
    others = [
        (one != other).any(-1).mean() for one, other in zip(drawn[:-1], pictures[1:], strict=True)
    ]
    assert all(one < other for one, other in zip(changed, others, strict=False))
    assert all(np.array_equal(*pair) for pair in zip(pictures, frames(6), strict=True))


def test_the_clip_runs_once_and_is_told_of(made, detector):
    calls = []
    followed = made(after_frame=lambda: calls.append(1))
    before = detector.runs["vision"]
    for _ in followed.pictures():
        pass
    text = followed.describe()
    followed.to_json()
    assert detector.runs["vision"] - before == len(calls) == 6
    lines = text.splitlines()
    assert lines[0].startswith("random weights")
    assert lines[1] == f"{len(followed.stories)} things in 6 frames"
    assert len(lines) == 2 + len(followed.stories)


def test_a_source_that_breaks_is_answered_up_to_there(detector, frames):
    """As one frame after the other: what was read before is not lost in the pipeline."""

    def breaking():
        yield from frames(3)
        raise InputError("frame 3 cannot be decoded")

    for overlap in (True, False):
        numbers = []
        frames_of = follow(detector, breaking(), overlap=overlap)
        with pytest.raises(InputError, match="frame 3"):
            numbers.extend(frame.number for frame in frames_of)
        assert numbers == [0, 1, 2]


def test_drawing_leaves_the_callers_picture_alone(dart_bundle, frames, tmp_path):
    from PIL import Image

    options = {"runtime": "onnxruntime", "threads": 1, "threshold": 0.0, "cache": tmp_path}
    with Detector.open(dart_bundle, NAMES, masks=True, **options) as detector:
        picture = Image.fromarray(frames(1)[0])
        drawn = detector.detect(picture).draw(picture)
    assert np.array_equal(np.asarray(picture), frames(1)[0])
    assert (np.asarray(drawn) != frames(1)[0]).any()
