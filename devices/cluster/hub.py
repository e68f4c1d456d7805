"""The hub: rank 0 of a cluster, who knows the words and outlives the loss of a worker.

:class:`Hub` has an engine's way of computing (``prefill``, ``decode``, ``truncate``), so that what
generates text need not know of the network. It keeps the token ids: when a worker is lost, the
others are told to break off, the cluster is formed again with the worker, another one or a split
over fewer, the ids are taken in anew, and the caller gets the logits that it waits for.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekit.errors import EdgekitError, InputError

from .collectives import Group, Interrupted
from .door import Door, Introducer
from .engine import Engine
from .formation import Formation, Former, FormSettings, describe
from .identity import Identity, Pins
from .join_code import JoinCodes
from .roster import DURING, Fault, Member, Roster
from .transfer import SplitModel
from .wire import Kind, PeerLost, ProtocolError, expect
from .worker import REPORT

REPORTING: Final = 1.0  # seconds between two reports while tokens are made
FAULTS: Final = (PeerLost, Interrupted, ProtocolError)

log = logging.getLogger("edgekit.cluster")


@dataclass(frozen=True)
class HubSettings:
    """How a hub works.

    Attributes:
        state: folder of its identity, its devices and its join codes.
        name: how workers call it.
        address: where it listens for workers.
        memory_budget: bytes of the whole process; None for no bound.
        threads: of computing; None for all cores.
        form: how ranks work together.
        engine: further arguments of :meth:`.Engine.open`.
    """

    state: Path
    name: str = "hub"
    address: tuple[str, int] = ("0.0.0.0", 7710)  # noqa: S104 - workers are other devices
    memory_budget: int | None = None
    threads: int | None = None
    form: FormSettings = field(default_factory=FormSettings)
    engine: dict[str, Any] = field(default_factory=dict)


class Hub:
    """Rank 0, used by one thread at a time.

    Args:
        splits: of one model, over different numbers of nodes; the largest that has its workers
            is used.

    Attributes:
        ids: the tokens that were taken in.
        codes: join codes. door: where workers come in. roster: who is there.

    Raises:
        DeviceError: the address is taken.
    """

    def __init__(self, settings: HubSettings, splits: Sequence[SplitModel]) -> None:
        self._settings = settings
        self.ids: list[int] = []
        identity = Identity.open(settings.state, settings.name)
        self.pins = Pins(settings.state / "devices.json")
        self.codes = JoinCodes(settings.state / "codes.json", identity.fingerprint)
        self.roster = Roster(settings.name, settings.form.seconds)
        introducer = Introducer(identity, self.codes, self.pins)
        self.door = Door(identity, self.pins.all, self.roster.admit, introducer, settings.address)
        self._former = Former(self.roster, splits, settings.form)
        self._formation: Formation | None = None
        self._engine: Engine | None = None
        self._group, self._split = Group(0, 1, {}), ""
        self._held: contextlib.ExitStack | None = None
        self._steps = itertools.count(1)
        self._reported = 0.0
        self._fault: tuple[float, list[Fault]] | None = None

    # ---- as an engine -----------------------------------------------------------------------

    @property
    def position(self) -> int:
        """How many tokens were taken in."""
        return len(self.ids)

    @property
    def context(self) -> int:
        """Tokens that fit."""
        return self.engine.context

    @property
    def complete(self) -> bool:
        """Whether all ranks are there and ready."""
        return self._formation is not None and self._formation.whole

    @property
    def engine(self) -> Engine:
        """Rank 0's own engine; the cluster is formed first if it is not."""
        if self._engine is None:
            self.form()
        return self._engine

    def prefill(self, ids: Iterable[int]) -> np.ndarray:
        """Take tokens in after those that are there.

        Returns:
            The logits of the last one, (vocabulary,); the array is used again.

        Raises:
            InputError: they do not fit, or are not of this model; none of them was taken in.
            DeviceError: workers are missing, and the patience is over.
        """
        new = [int(one) for one in ids]
        room = self.engine.context
        if len(self.ids) + len(new) > room:
            raise InputError(
                f"{len(new)} tokens do not fit after {len(self.ids)}",
                f"there is room for {room}",
                "a larger --context",
            )
        before = len(self.ids)
        self.ids += new
        try:
            return self._settle()
        except BaseException:
            del self.ids[before:]
            raise

    def decode(self, token: int) -> np.ndarray:
        """Take one token in; otherwise as :meth:`prefill`."""
        return self.prefill((token,))

    def truncate(self, position: int) -> None:
        """Forget the tokens from ``position`` on."""
        del self.ids[position:]
        if self._engine is not None and self._engine.position > position:
            self._engine.truncate(position)

    def rest(self) -> None:
        """Nothing is to be computed for now: the workers wait, and are asked whether they live."""
        if self._held is None:
            return
        try:
            self._ask_reports()
            self._engine.stop()
        except FAULTS as error:
            self._recover(error)
        else:
            self._release()

    # ---- the cluster ------------------------------------------------------------------------

    def form(self) -> None:
        """Wait until the cluster is complete and ready.

        Raises:
            DeviceError: the patience is over.
        """
        if self.complete:
            return
        self._release()
        self._formation = self._former.form(self._open, next(self._steps))
        self._engine.reset()  # a worker that is new has taken in none of the tokens
        self.roster.settle()
        where = f"{self._formation.split.nodes} nodes"
        log.info("epoch %d: %s, %s", self._formation.epoch, where, self._formation.split.precision)

    def _open(self, split: SplitModel, context: int) -> Group:
        """Rank 0's engine for a split, and its group."""
        if self._split != split.key:
            if self._engine is not None:
                self._engine.close()
            self._engine, self._split = None, ""
            self._group = Group(0, split.nodes, {}, self._settings.form.wire)
            settings = self._settings
            self._engine = Engine.open(
                *(split.ranks[0][0], 0, self._group, settings.memory_budget, context),
                threads=settings.threads,
                **settings.engine,
            )
            self._split = split.key
        return self._group

    def _settle(self) -> np.ndarray:
        """Compute until the engine holds all ids, however often a worker is lost."""
        while True:
            try:
                self._begin()
                engine, chunk = self._engine, self._formation.chunk
                engine.truncate(min(engine.position, len(self.ids) - 1))
                while (left := len(self.ids) - engine.position) > 0:
                    start = engine.position
                    logits = engine.prefill(self.ids[start : start + min(left, chunk)])
                self._resumed()
                if time.monotonic() - self._reported >= REPORTING:
                    self._ask_reports()
                return logits
            except FAULTS as error:
                self._recover(error)

    def _begin(self) -> None:
        """Have all ranks follow."""
        if self._held is not None:
            return
        self.form()
        held = contextlib.ExitStack()
        for member in self._formation.ranks:
            held.enter_context(member.lock)
        self._held = held
        step = next(self._steps)
        self._group.begin(step)
        for member in self._formation.ranks:
            member.channel.send_message(
                "follow", self._settings.form.seconds, step=step, choice=list(self._group.choice)
            )

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def _recover(self, error: EdgekitError) -> None:
        """Break off what is being computed, and find out who is lost."""
        began = time.monotonic()
        self._engine.reset()
        members = self._formation.ranks
        why = getattr(error, "reason", None) or str(error)
        lost: dict[str, str] = {}
        if isinstance(error, Interrupted) and error.message.get("type") == "failed":
            lost[error.peer] = str(error.message.get("why", ""))
        elif isinstance(error, Interrupted):
            why = str(error.message.get("why", why))
        threads = [
            threading.Thread(target=self._break_off, args=(member, why, lost)) for member in members
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        faults = [
            self.roster.remove(member, lost.get(member.name, why), DURING)
            for member in members
            if member.name in lost or member.lost
        ]
        self._fault = self._fault or (began, [])
        self._fault[1].extend(faults)
        self._release()
        self._formation = None

    def _break_off(self, member: Member, why: str, lost: dict[str, str]) -> None:
        """Tell a worker to stop, and read what it still says until it has."""
        if member.lost or member.name in lost:
            return
        seconds = self._settings.form.seconds + 2.0
        until = time.monotonic() + seconds
        try:
            member.channel.send_message("abort", seconds, why=why)
            while True:
                header, content = member.channel.receive(max(until - time.monotonic(), 0.01))
                if header.kind == Kind.MESSAGE:
                    said = expect(header, content, member.name)
                    if said["type"] == "aborted":
                        return
                    if said["type"] == "failed":
                        lost[member.name] = str(said.get("why", ""))
                        return
        except EdgekitError as error:
            lost[member.name] = getattr(error, "reason", str(error))

    def _resumed(self) -> None:
        if self._fault is None:
            return
        began, faults = self._fault
        self._fault = None
        for fault in faults:
            fault.resumed = round(time.monotonic() - began, 3)
        log.warning("computing again after %.1f s", time.monotonic() - began)

    def _ask_reports(self) -> None:
        """Every rank's memory and times: now and then between two tokens, and after the last."""
        if not self._formation.ranks:
            return
        self._engine.announce(REPORT)
        for member in self._formation.ranks:
            header, content = member.channel.receive(self._settings.form.seconds)
            said = expect(header, content, member.name, "report", "failed")
            if said["type"] == "failed":
                raise Interrupted(member.name, said)
            member.report = said["report"]
        self._reported = time.monotonic()

    def stop(self) -> None:
        """From another thread: wait for missing workers no longer."""
        self._former.stop()

    def close(self) -> None:
        """Send the workers home and end; may be called again."""
        self.stop()
        if self._engine is not None:
            with contextlib.suppress(EdgekitError):
                self.rest()
            self._release()
            self._engine.close()
            self._engine, self._split = None, ""
        self.door.close()
        self.roster.close()

    # ---- what is told -----------------------------------------------------------------------

    def told(self) -> dict[str, Any]:
        """Every node's memory, stall, link and compute time, and the faults; for JSON."""
        formation, engine = self._formation, self._engine
        nodes = []
        if engine is not None:
            traffic = [one.channel.traffic for one in (formation.ranks if formation else [])]
            sent = {"sent": sum(one.sent for one in traffic)}
            sent["received"] = sum(one.received for one in traffic)
            report = engine.report() | {"traffic": sent}
            nodes.append({"name": self._settings.name, "state": "hub", **report})
        ranks = formation.ranks if formation else []
        nodes += [_node(member, member in ranks) for member in self.roster.members()]
        return {
            "precision": formation.split.precision if formation else None,
            "epoch": formation.epoch if formation else 0,
            "complete": self.complete,
            "nodes": nodes,
            "collective": [[first, name] for first, name in self._group.choice],
            "milliseconds": describe(formation.timings) if formation else None,
            "refused": self.door.refusals.count,
            "faults": self.roster.told(),
        }


def _node(member: Member, used: bool) -> dict[str, Any]:
    link = {"latency": member.latency, "bandwidth": member.bandwidth}
    state = "ready" if used else "waiting"
    about = {"name": member.name, "state": state, "host": member.channel.host, "link": link}
    return about | ({"rank": member.rank} if used else {}) | (member.report if used else {})
