"""Which box of this frame is which of the last: identities for what a detector finds.

As ByteTrack (Zhang et al., arXiv:2110.06864): boxes that are sure go with the tracks first, and
those that are not may still prolong a track, but begin none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from edgekit.errors import UsageError

from .boxes import iou
from .tasks.detection import Detection
from .tracking_assignment import assign
from .tracking_motion import Motion

# What a pair of different classes costs beside its distance: overlapping things of two classes
# keep to themselves, while one thing whose class wavers stays one.
_OTHER_CLASS: Final = 0.1


@dataclass(frozen=True)
class TrackerSettings:
    """How boxes are joined.

    Attributes:
        high: what scores at least this is sure. low: what scores less is not looked at.
        overlaps: least IoU of a track with a sure box, with another one, and of a track that
            is not confirmed yet with a sure box.
        confirm: frames in which a track is seen before it is shown.
        forget: frames that a lost track is remembered. duplicate: IoU above which the younger
            of two tracks is dropped. memory: what is left of a class' vote in the next frame.
    """

    high: float = 0.5
    low: float = 0.1
    overlaps: tuple[float, float, float] = (0.5, 0.4, 0.3)
    confirm: int = 3
    forget: int = 30
    duplicate: float = 0.85
    memory: float = 0.85


@dataclass(frozen=True)
class Track:
    """One thing in one frame: its identity, and the box and class as seen now."""

    identity: int
    label: str
    index: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(eq=False)
class _Followed:
    motion: Motion
    seen: Detection
    hits: int = 1
    missed: int = 0
    identity: int = 0  # of a track that is shown; 0 before
    votes: dict[tuple[int, str], float] = field(default_factory=dict)

    def vote(self, memory: float) -> None:
        self.votes = {name: share * memory for name, share in self.votes.items()}
        name = (self.seen.index, self.seen.label)
        self.votes[name] = self.votes.get(name, 0.0) + self.seen.score

    @property
    def name(self) -> tuple[int, str]:
        return max(self.votes, key=lambda name: self.votes[name])


class Tracker:
    """Gives what is found in successive frames identities, from 1 on, in order of appearance.

    Raises:
        UsageError: (on construction) a setting is out of range.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        shares = (self.settings.high, self.settings.low, *self.settings.overlaps)
        if not all(0 <= share <= 1 for share in shares) or self.settings.confirm < 1:
            raise UsageError("the tracker's settings are out of range", str(self.settings))
        self.reset()

    def reset(self) -> None:
        """Forget everything; identities begin with 1 again."""
        self._tracks: list[_Followed] = []
        self._next = 1

    def update(self, detections: Sequence[Detection]) -> tuple[Track, ...]:
        """The next frame.

        Args:
            detections: in pixels.

        Returns:
            the confirmed tracks that are in this frame, by identity.
        """
        for track in self._tracks:
            track.motion.predict(moving=track.missed == 0)
        self._match(detections)
        self._tidy()
        shown = [track for track in self._tracks if track.identity and track.missed == 0]
        return tuple(_shown(track) for track in sorted(shown, key=lambda t: t.identity))

    def _match(self, detections: Sequence[Detection]) -> None:
        settings = self.settings
        sure = [one for one in detections if one.score >= settings.high]
        rest = [one for one in detections if settings.low <= one.score < settings.high]
        known = [track for track in self._tracks if track.identity]
        fresh = [track for track in self._tracks if not track.identity]
        first, second, third = settings.overlaps
        known, sure = self._pair(known, sure, first)
        visible = [track for track in known if track.missed == 0]
        self._pair(visible, rest, second)
        fresh, sure = self._pair(fresh, sure, third)
        for track in (*known, *fresh):
            if track.missed >= 0:
                track.missed += 1
        for track in self._tracks:
            track.missed = max(track.missed, 0)
        # One that is lost before it was confirmed was none.
        self._tracks = [t for t in self._tracks if t.identity or t.missed == 0]
        for one in sure:
            followed = _Followed(Motion(np.array(one.box)), one)
            followed.vote(settings.memory)
            self._tracks.append(followed)
            self._confirm(followed)

    def _pair(
        self, tracks: list[_Followed], detections: list[Detection], least: float
    ) -> tuple[list[_Followed], list[Detection]]:
        """Join what goes together; what is left of both."""
        if not tracks or not detections:
            return tracks, detections
        boxes = np.stack([track.motion.box for track in tracks])
        distance = 1 - iou(boxes, np.array([one.box for one in detections]))
        other = [[track.name[0] != one.index for one in detections] for track in tracks]
        # Two that do not overlap enough are never joined, whatever their classes.
        cost = np.where(distance <= 1 - least, distance + _OTHER_CLASS * np.array(other), 3.0)
        pairs = assign(cost, limit=1 - least + _OTHER_CLASS)
        for row, column in pairs:
            self._prolong(tracks[row], detections[column])
        rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
        return (
            [track for row, track in enumerate(tracks) if row not in rows],
            [one for column, one in enumerate(detections) if column not in columns],
        )

    def _prolong(self, track: _Followed, seen: Detection) -> None:
        track.motion.correct(np.array(seen.box))
        track.seen, track.hits = seen, track.hits + 1
        track.missed = -1  # found in this frame; 0 again when all are matched
        track.vote(self.settings.memory)
        self._confirm(track)

    def _confirm(self, track: _Followed) -> None:
        if not track.identity and track.hits >= self.settings.confirm:
            track.identity, self._next = self._next, self._next + 1

    def _tidy(self) -> None:
        """Forget what was lost too long ago, and of two tracks of one thing the younger."""
        tracks = [t for t in self._tracks if t.missed <= self.settings.forget]
        boxes = np.array([track.motion.box for track in tracks]).reshape(-1, 4)
        same = np.triu(iou(boxes, boxes) > self.settings.duplicate, 1)
        gone = set()
        for first, second in np.argwhere(same).tolist():
            one, other = tracks[first], tracks[second]
            if one.name[0] == other.name[0]:
                gone.add(first if one.hits < other.hits else second)
        self._tracks = [track for place, track in enumerate(tracks) if place not in gone]


def _shown(track: _Followed) -> Track:
    index, label = track.name
    return Track(track.identity, label, index, track.seen.score, track.seen.box)
