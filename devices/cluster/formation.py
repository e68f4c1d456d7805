"""From connected workers to ranks that are ready: who gets which shard, and how they are linked."""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from edgekit.errors import DeviceError, EdgekitError

from .choose import Timings, choose
from .collectives import ALGORITHMS, Group
from .roster import Member, Roster
from .transfer import SplitModel, send_file
from .wire import Kind, ProtocolError, expect

LINKING: Final = 5.0  # seconds in which workers must have found each other
GETTING_READY: Final = "getting ready"

log = logging.getLogger("edgekit.cluster")


@dataclass(frozen=True)
class FormSettings:
    """How ranks work together.

    Attributes:
        seconds: the longest wait for a rank within a step.
        wire: ``float32`` or ``float16`` activations between ranks.
        collective: an algorithm, or ``auto`` for the one that is measured to be the fastest.
        context: tokens that fit.
        grace: seconds that are waited for a missing worker before a split over fewer is taken.
        patience: seconds after which a cluster that is not complete is given up; None for never.
    """

    seconds: float = 10.0
    wire: str = "float32"
    collective: str = "auto"
    context: int = 2048
    grace: float = 20.0
    patience: float | None = None


@dataclass
class Formation:
    """Ranks that are ready.

    Attributes:
        epoch: counts them. split: what they run. ranks: the workers, from rank 1 on.
        chunk: tokens that every rank takes at a time. meshed: whether the workers are
            linked to each other. timings: of the algorithms, if tried.
    """

    epoch: int
    split: SplitModel
    ranks: list[Member]
    chunk: int
    meshed: bool = False
    timings: Timings | None = None

    @property
    def whole(self) -> bool:
        """Whether all of its workers are still there."""
        return not any(member.lost for member in self.ranks)


class Former:
    """Makes formations out of whoever is there.

    Args:
        splits: of one model, over different numbers of nodes.
        group: rank 0's end; its channels are set here.
    """

    def __init__(
        self, roster: Roster, splits: Sequence[SplitModel], settings: FormSettings
    ) -> None:
        self._roster, self._settings = roster, settings
        self._splits = sorted(splits, key=lambda split: split.nodes, reverse=True)
        self._epoch, self._ended = 0, False
        self._timings: dict[tuple[str, ...], Timings] = {}
        self._cannot: dict[str, str] = {}  # why a device failed last, by its name

    def stop(self) -> None:
        """Wait no longer; :meth:`form` raises."""
        with self._roster.changed:
            self._ended = True
            self._roster.changed.notify_all()

    def form(self, open_rank_0: Callable[[SplitModel, int], Group], step: int) -> Formation:
        """Wait for workers and make them ready; workers that fail on the way are removed.

        Args:
            open_rank_0: opens rank 0's engine for a split with a context, and gives its group.
            step: the number of the step in which algorithms are tried.

        Raises:
            DeviceError: the patience is over, or a worker cannot do its part.
        """
        began = time.monotonic()
        while True:
            split, members = self._await_enough(began)
            group = open_rank_0(split, self._settings.context)
            with contextlib.ExitStack() as held:
                for member in members:
                    held.enter_context(member.lock)
                formation = self._prepare(split, members, group)
                if formation is not None:
                    self._link(formation)
                    self._choose(formation, group, step)
                if formation is not None and formation.whole:
                    return formation

    def _await_enough(self, began: float) -> tuple[SplitModel, list[Member]]:
        """The largest split for which there are workers; a smaller one only after the grace."""
        settings, said = self._settings, False
        while True:
            waited = time.monotonic() - began
            with self._roster.changed:
                for split in self._splits:
                    there = self._roster.members()
                    if len(there) >= split.nodes - 1:
                        return split, _seated(there, split)
                    if waited < settings.grace:
                        break
                if self._ended:
                    raise DeviceError("the hub ends")
                if settings.patience is not None and waited > settings.patience:
                    raise self._incomplete()
                if not said:
                    said = True
                    log.warning("%s", self._incomplete().what)
                self._roster.changed.wait(0.25)

    def _incomplete(self) -> DeviceError:
        need, have = self._splits[-1].nodes - 1, len(self._roster.members())
        why = "; ".join(f"{name}: {words}" for name, words in sorted(self._cannot.items()))
        what = f"{need} worker{'s' * (need != 1)} needed, {have} connected"
        return DeviceError(what, why, "edgekit cluster invite, then the worker with its code")

    def _prepare(self, split: SplitModel, members: list[Member], group: Group) -> Formation | None:
        """Shards and engines of all ranks at once; None if one of them failed."""
        self._epoch += 1
        done, chunks = threading.Event(), [1 << 30] * len(members)
        arrived = [threading.Event() for _ in members]

        def work(place: int) -> None:
            try:
                chunks[place] = self._ready(members[place], split, place + 1)
                arrived[place].set()
                while not done.wait(1.0):  # it must hear of us while others are not ready
                    members[place].ask("ping", "pong", self._settings.seconds)
            except EdgekitError as error:
                self._failed(members[place], error)
            except (OSError, KeyError, TypeError, ValueError) as error:
                self._failed(members[place], DeviceError(repr(error)))
            finally:
                arrived[place].set()

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(members))]
        for thread in threads:
            thread.start()
        for event in arrived:
            event.wait()
        done.set()
        for thread in threads:
            thread.join()
        for place, member in enumerate(members):
            member.rank = place + 1
        if any(member.lost for member in members):
            return None
        group.channels = {member.rank: member.channel for member in members}
        group.epoch, group.seconds = self._epoch, self._settings.seconds
        group.choice = self._default(split.nodes)
        return Formation(self._epoch, split, members, min(chunks, default=1 << 30))

    def _failed(self, member: Member, error: EdgekitError) -> None:
        why = getattr(error, "reason", str(error))
        if not hasattr(error, "reason"):  # not that it is gone: it says that it cannot
            self._cannot[member.name] = why
        self._roster.remove(member, why, GETTING_READY)

    def _ready(self, member: Member, split: SplitModel, rank: int) -> int:
        """Take one worker from its assignment to ready; its chunk."""
        settings, channel = self._settings, member.channel
        if member.latency is None:
            member.measure(settings.seconds)
        _, files = split.ranks[rank]
        channel.send_message(
            "assign",
            settings.seconds,
            **{"epoch": self._epoch, "rank": rank, "size": split.nodes, "split": split.key},
            files={name: asdict(entry) for name, entry in files.items()},
            **{"seconds": settings.seconds, "wire": settings.wire, "context": settings.context},
        )
        while True:
            said = self._next(member, settings.seconds)
            if said["type"] == "fetch":
                send_file(channel, said, split, rank, settings.seconds)
            elif said["type"] == "ready":
                member.report = said.get("report", {})
                self._cannot.pop(member.name, None)
                return int(said["chunk"])

    def _next(self, member: Member, seconds: float) -> dict[str, Any]:
        header, content = member.channel.receive(seconds + 5.0)
        if header.kind != Kind.MESSAGE:
            raise ProtocolError(f"{member.name} sent {header.kind.name.lower()}", "not now")
        said = expect(header, content, member.name, "fetch", "busy", "ready", "failed")
        if said["type"] == "failed":
            raise DeviceError(str(said.get("why", "it failed"))[:300])
        return said

    def _default(self, nodes: int) -> list[tuple[int, str]]:
        wanted = self._settings.collective
        if wanted in ALGORITHMS and not (nodes == 2 and wanted == "ring"):
            return [(0, wanted)]
        return [(0, "doubling" if nodes == 2 else "star")]

    def _link(self, formation: Formation) -> None:
        """Links among the workers, unless the star is wanted; without them there is the star."""
        members, settings = formation.ranks, self._settings
        if settings.collective == "star" or len(members) < 2:
            return
        peers = {member.rank: _as_peer(member) for member in members}
        linked: list[int] = []

        def work(member: Member) -> None:
            others = {rank: peer for rank, peer in peers.items() if rank != member.rank}
            try:
                member.channel.send_message("link", 5.0, peers=others, seconds=LINKING)
                said = member.channel.receive_message(2 * LINKING, "linked")
                linked.append(int(said.get("links", 0)))
                if said.get("why"):
                    log.warning("%s reaches not all workers: %s", member.name, said["why"])
            except EdgekitError as error:
                self._failed(member, error)

        threads = [threading.Thread(target=work, args=(member,)) for member in members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        formation.meshed = linked == [len(members) - 1] * len(members)
        if not formation.meshed and formation.whole and settings.collective != "auto":
            raise DeviceError(
                f"no {settings.collective} without links among all workers",
                "some do not reach each other",
                "--collective star",
            )

    def _choose(self, formation: Formation, group: Group, step: int) -> None:
        """Try the algorithms, and take the fastest; all ranks hear the choice."""
        members = formation.ranks
        if self._settings.collective != "auto" or not members or not formation.whole:
            return
        key = (*(member.key for member in members), str(formation.meshed))
        if (known := self._timings.get(key)) is not None:
            formation.timings, group.choice = known, known.choice()
            return
        try:
            for member in members:
                member.channel.send_message("measure", 5.0, step=step)
            group.begin(step)
            formation.timings = self._timings[key] = choose(group)
        except EdgekitError as error:
            lost = [one for one in members if one.channel.closed] or members
            for member in lost:
                self._roster.remove(member, getattr(error, "reason", str(error)), GETTING_READY)


def _seated(able: list[Member], split: SplitModel) -> list[Member]:
    """Workers by rank: each where it was, or where its disk has the shard, if possible."""
    seats: list[Member | None] = [None] * (split.nodes - 1)
    left = list(able)

    def seat(wants: Callable[[Member, int], bool]) -> None:
        for place, taken in enumerate(seats):
            match = next((one for one in left if wants(one, place + 1)), None)
            if taken is None and match is not None:
                seats[place] = match
                left.remove(match)

    seat(lambda member, rank: member.rank == rank)
    seat(lambda member, rank: f"{split.key}/rank-{rank}" in member.info.get("held", []))
    seat(lambda member, rank: True)
    return [member for member in seats if member is not None]


def _as_peer(member: Member) -> dict[str, Any]:
    host = member.channel.host
    port, der = member.info.get("mesh_port"), member.channel.certificate or b""
    pem = ssl.DER_cert_to_PEM_cert(der)
    return {"name": member.name, "host": host, "port": port, "certificate": pem}


def describe(timings: Timings | None) -> dict[str, Any] | None:
    """Timings for JSON: milliseconds by algorithm and bytes."""
    if timings is None:
        return None
    return {
        name: {
            str(size): round(1e3 * value, 3) for size, value in zip(timings.sizes, row, strict=True)
        }
        for name, row in zip(timings.algorithms, timings.seconds, strict=True)
    } | {"choice": json.loads(json.dumps(timings.choice()))}
