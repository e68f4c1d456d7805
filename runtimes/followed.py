"""A whole clip, followed from its first frame to its last, as one answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from .clips import Clip
from .detector import Detector
from .tasks.base import Result
from .tracking import Track, Tracker, TrackerSettings
from .video import Frame, follow


@dataclass(frozen=True)
class Story:
    """One thing, from the frame in which it was first shown to the last.

    Attributes:
        identity: its number. label: its class as seen last. first, last: frames, from 0 on.
        frames: in how many it was seen. score: the best.
    """

    identity: int
    label: str
    first: int
    last: int
    frames: int
    score: float

    @classmethod
    def begin(cls, number: int, track: Track) -> Story:
        """A thing that frame ``number`` shows for the first time."""
        return cls(track.identity, track.label, number, number, 1, track.score)

    def go_on(self, number: int, track: Track) -> Story:
        """It is in frame ``number``, too."""
        best = max(self.score, track.score)
        return replace(self, label=track.label, last=number, frames=self.frames + 1, score=best)


class Followed(Result):
    """What is found in a clip, with identities. The clip is run when it is first asked for.

    Args:
        detector: what looks. clip: what it looks at. settings: of the tracker.
        after_frame: called after each frame.

    Attributes:
        rate: of the clip, frames a second. frames: each frame's answer in plain values.
        stories: of what was followed, by identity.
    """

    def __init__(
        self,
        detector: Detector,
        clip: Clip,
        settings: TrackerSettings | None = None,
        after_frame: Callable[[], None] = lambda: None,
    ) -> None:
        self._detector, self._clip, self._after_frame = detector, clip, after_frame
        self._settings = settings
        self._done = False
        self._remark = ""
        self.rate = clip.rate
        self.frames: list[dict[str, Any]] = []
        self.stories: dict[int, Story] = {}

    def pictures(self) -> Iterator[Image.Image]:
        """Run the clip, and draw each frame as soon as it is answered.

        Raises:
            InputError: a frame cannot be decoded.
            ParityError: an output is not finite: an artifact is broken.
        """
        for frame, picture in self._run():
            yield frame.draw(picture)

    def to_json(self) -> dict[str, Any]:
        """``{"rate", "weights", "frames": […], "tracks": […]}``; errors as of the run.

        A frame is ``{"number", "size", "detections", "tracks"}``; a track of the clip says
        where it begins and ends.
        """
        self._finish()
        weights = self._detector.task.bundle.manifest.model.weights
        tracks = [asdict(story) for story in self.stories.values()]
        return {"rate": self.rate, "weights": weights, "frames": self.frames, "tracks": tracks}

    def describe(self) -> str:
        """How many frames and things, then one line for each thing; errors as of the run."""
        self._finish()
        count = len(self.stories)
        things = f"{count} thing" + ("" if count == 1 else "s")
        lines = [f"{things} in {len(self.frames)} frames", *map(_line, self.stories.values())]
        return "\n".join([self._remark, *lines] if self._remark else lines)

    def _finish(self) -> None:
        if not self._done:
            for _ in self._run():
                pass

    def _run(self) -> Iterator[tuple[Frame, np.ndarray]]:
        self.frames, self.stories = [], {}
        under_way: deque[np.ndarray] = deque()
        for frame in follow(self._detector, _kept(self._clip, under_way), Tracker(self._settings)):
            self._take(frame)
            yield frame, under_way.popleft()
            self._after_frame()
        self._done = True

    def _take(self, frame: Frame) -> None:
        document = frame.to_json()
        document.pop("weights")  # of the clip, not of each frame
        self.frames.append(document)
        self._remark = frame.result.remark
        for track in frame.tracks:
            known = self.stories.get(track.identity)
            self.stories[track.identity] = (
                known.go_on(frame.number, track) if known else Story.begin(frame.number, track)
            )


def _kept(frames: Iterable[np.ndarray], under_way: deque[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, each also put down until its answer is drawn."""
    for frame in frames:
        under_way.append(frame)
        yield frame


def _line(story: Story) -> str:
    return (
        f"{story.identity:4d}  {story.label}  frames {story.first} to {story.last}, "
        f"at best {100 * story.score:.1f} %"
    )
