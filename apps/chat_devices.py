"""The devices of a cluster as the chat's page shows them: what the hub tells, checked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

MOST: Final = 64  # devices and faults that are shown
RECENT: Final = 20.0  # seconds for which it is told that a loss is over
_TIMES: Final = ("compute", "link", "stall")
_LARGEST: Final = float(1 << 53)  # what a page can count; neither NaN nor infinity is less
_KNOWN: Final = ("hub", "ready", "waiting")


@dataclass(frozen=True)
class Device:
    """One rank; None where the hub does not tell.

    Attributes:
        state: ``hub``, ``ready``, ``waiting`` (there and not used), ``lost``, or ``unknown``
            (the hub is silent).
        heads, of_heads, layers, feed_forward, of_feed_forward: its share.
        now, peak, budget, planned: bytes of its process. streamed: of weights that it reads
            anew for each token.
        tokens: how many ``ms`` is the mean of. ms: of a token, by what it is spent for.
        latency: ms of its link, one way.
    """

    name: str
    state: str
    rank: int | None = None
    host: str = ""
    heads: int | None = None
    of_heads: int | None = None
    layers: int | None = None
    feed_forward: int | None = None
    of_feed_forward: int | None = None
    now: int | None = None
    peak: int | None = None
    budget: int | None = None
    planned: int | None = None
    streamed: int | None = None
    tokens: int = 0
    ms: dict[str, float] = field(default_factory=dict)
    latency: float | None = None

    @classmethod
    def parse(cls, node: Mapping[str, Any]) -> Device:
        """One of ``nodes``; what makes no sense is left out."""
        share, memory, link = (_part(node, name) for name in ("share", "memory", "link"))
        recent = _part(node, "recent")
        state = node.get("state")
        latency = _number(link.get("latency"))
        counts = ("heads", "of_heads", "layers", "feed_forward", "of_feed_forward")
        return cls(
            _text(node.get("name"), 80),
            state if state in _KNOWN else "unknown",
            _count(node.get("rank")),
            _text(node.get("host"), 80),
            **{name: _count(share.get(name)) for name in counts},
            **{name: _count(memory.get(name)) for name in ("now", "peak", "budget", "streamed")},
            planned=_count(memory.get("total")),
            tokens=_count(recent.get("tokens")) or 0,
            ms={
                name: 1e3 * value
                for name in _TIMES
                if (value := _number(recent.get(name))) is not None
            },
            latency=None if latency is None else 1e3 * latency,
        )


@dataclass(frozen=True)
class Loss:
    """A device that was lost. ``at``: seconds since 1970; ``resumed``: None: not yet mended."""

    name: str
    why: str
    at: float
    during: str
    resumed: float | None

    @classmethod
    def parse(cls, fault: Mapping[str, Any]) -> Loss:
        """One of ``faults``."""
        return cls(
            _text(fault.get("name"), 80),
            _text(fault.get("why"), 200),
            _number(fault.get("at")) or 0.0,
            _text(fault.get("during"), 40),
            _number(fault.get("resumed")),
        )


@dataclass(frozen=True)
class Cluster:
    """What is known of a cluster.

    Attributes:
        model: its name; empty: not known yet. silent: why the hub does not answer; None: it does.
        waiting: requests that wait, or are being answered.
        devices: those that are lost come last. losses: the last ones, oldest first.
        mended: the last loss whose end was seen; mended_at: when, by the monotonic clock.
    """

    model: str = ""
    silent: str | None = "it was not asked yet"
    complete: bool = False
    precision: str = ""
    waiting: int = 0
    devices: tuple[Device, ...] = ()
    losses: tuple[Loss, ...] = ()
    mended: Loss | None = None
    mended_at: float = 0.0

    def heard(self, told: Mapping[str, Any]) -> Cluster:
        """This cluster as the hub tells of it now; of devices that are lost, what was known."""
        faults = [Loss.parse(one) for one in _list(told, "faults")]
        losses = tuple(loss for loss in faults if loss.name)
        there = [Device.parse(one) for one in _list(told, "nodes")]
        before = {device.name: device for device in self.devices}
        names = {device.name for device in there}
        gone = {loss.name for loss in losses if loss.resumed is None} - names
        lost = [replace(before.get(one, Device(one, "")), state="lost") for one in sorted(gone)]
        mended = self._newly_mended(losses)
        return replace(
            self if mended is None else replace(self, mended=mended, mended_at=time.monotonic()),
            model=_text(told.get("model"), 200),
            silent=None,
            complete=told.get("complete") is True,
            precision=_text(told.get("precision"), 20),
            waiting=_count(_part(told, "requests").get("waiting")) or 0,
            devices=tuple(there + lost)[:MOST],
            losses=losses,
        )

    def _newly_mended(self, losses: Sequence[Loss]) -> Loss | None:
        """The last loss that is over, and was not when the hub told last."""
        if self.silent is not None:
            return None
        over = {(loss.name, loss.at) for loss in self.losses if loss.resumed is not None}
        newly = [
            one for one in losses if one.resumed is not None and (one.name, one.at) not in over
        ]
        return newly[-1] if newly else None

    def unheard(self, why: str) -> Cluster:
        """This cluster, of whose hub nothing is heard."""
        unknown = tuple(replace(device, state="unknown") for device in self.devices)
        return replace(self, silent=why, complete=False, devices=unknown)

    def words(self, now: float | None = None) -> str:
        """What is wrong, and what goes on; empty if nothing is."""
        if self.silent is not None:
            stays = "The conversation stays here; the hub is called again every second."
            return f"No word from the hub: {self.silent}. {stays}"
        open_losses = [loss for loss in self.losses if loss.resumed is None]
        if open_losses and not self.complete:
            lost = "; ".join(f"{one.name} is lost: {one.why}" for one in open_losses[-4:])
            then = "then an answer under way goes on where it was"
            return f"{lost}. The hub waits for it, or for another device; {then}."
        if not self.complete:
            return "The cluster is not complete yet: the hub waits for its devices."
        now = time.monotonic() if now is None else now
        if self.mended is not None and now < self.mended_at + RECENT:
            one = self.mended
            return f"{one.name} was lost ({one.why}); {one.resumed:.1f} s later it went on."
        return ""

    def to_json(self) -> dict[str, Any]:
        """All of it, with :meth:`words`."""
        return asdict(self) | {"words": self.words()}


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _list(document: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    found = document.get(name)
    return (
        [one for one in found if isinstance(one, dict)][-MOST:] if isinstance(found, list) else []
    )


def _text(value: object, most: int) -> str:
    return value[:most] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and 0 <= value < _LARGEST else None


def _count(value: object) -> int | None:
    found = _number(value)
    return None if found is None else int(found)
