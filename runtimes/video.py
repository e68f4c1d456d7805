"""A detector on a stream of pictures: the next frame's backbone beside this frame's detection.

The backbone knows nothing of what is looked for, so it can go on with the next frame while the
boxes of this one are found. What comes out is exactly what one after the other gives, frame by
frame; only the waiting is less. It costs one frame's features more in memory, and gains only
where the two together do not fill the processor.

>>> from edgekit.runtimes.clips import open_clip
>>> from edgekit.runtimes.detector import Detector
>>> from edgekit.runtimes.video import follow
>>> with Detector.open("sam3.edgekit", classes=["person"]) as detector:  # doctest: +SKIP
...     for frame in follow(detector, open_clip("street.mp4")):
...         print(frame.number, [(track.identity, track.label) for track in frame.tracks])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from .detector import Detector, Seen
from .tasks.drawing import draw_boxes
from .tasks.pictures import Picture
from .tasks.prompted_result import PromptedResult
from .tracking import Track, Tracker


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame's answer.

    Attributes:
        number: from 0 on. result: what was found. tracks: what has an identity; none without
            a tracker.
    """

    number: int
    result: PromptedResult
    tracks: tuple[Track, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """``number``, what the result says, and ``tracks``, each with its ``identity``."""
        tracks = [asdict(track) for track in self.tracks]
        return {"number": self.number, **self.result.to_json(), "tracks": tracks}

    def draw(self, picture: Picture) -> Image.Image:
        """A copy of the frame with outlines, and the boxes of what has an identity.

        Raises:
            InputError: it is no picture.
        """
        boxes = [
            (one.box, f"{one.identity} {one.label} {100 * one.score:.0f} %", one.identity)
            for one in sorted(self.tracks, key=lambda track: track.score)
        ]
        outlined = self.result.draw_outlines(picture)
        return self.result.finish_drawing(draw_boxes(outlined, boxes))


def follow(
    detector: Detector,
    frames: Iterable[Picture],
    tracker: Tracker | None = None,
    *,
    overlap: bool = True,
    track: bool = True,
) -> Iterator[Frame]:
    """Detect in every frame, and give what is found identities.

    Classes may be changed between frames: what is asked of a frame is what ``detector.classes``
    says when the answer before it is taken.

    Args:
        frames: pictures in order; read one ahead.
        tracker: as it is, with what it remembers; None: a new one.
        overlap: run the backbone on the next frame meanwhile; False: one after the other.
        track: False: no identities.

    Yields:
        a :class:`Frame` for each picture, in order.

    Raises:
        InputError: a frame is no picture; those before it have been answered.
    """
    if track and tracker is None:
        tracker = Tracker()
    ahead = _ahead(detector, frames) if overlap else (detector.look(frame) for frame in frames)
    with closing(ahead) as seen:
        for number, one in enumerate(seen):
            result = detector.find(one)
            found = tracker.update(result.detections) if track and tracker else ()
            yield Frame(number, result, found)


def _ahead(detector: Detector, frames: Iterable[Picture]) -> Iterator[Seen]:
    """What the backbone sees of each frame, computed while the one before is looked at.

    One thread runs the vision graph's session, and the caller's the other graphs': a session
    serves one thread at a time.
    """
    source, failure = iter(frames), None
    with ThreadPoolExecutor(1, thread_name_prefix="backbone") as pool:
        waiting: Future[Seen] | None = None
        try:
            while True:
                try:
                    following = pool.submit(detector.look, next(source))
                except StopIteration:
                    break
                except Exception as error:
                    failure = error  # of the source; the frame before it is answered first
                    break
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            if waiting is not None:
                yield waiting.result()
        finally:
            # Where the caller stops early, the frame that is under way is finished first: the
            # session must not be closed beneath it.
            pool.shutdown(wait=True, cancel_futures=True)
    if failure is not None:
        raise failure
