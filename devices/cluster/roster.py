"""The workers that are connected to a hub, and whether they still answer."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from edgekit.errors import EdgekitError

from .wire import Channel, Header, Kind, ProtocolError

DURING: Final = "computing"
PING: Final = 2.0  # seconds between two questions to a worker that has nothing to do

log = logging.getLogger("edgekit.cluster")


@dataclass
class Member:
    """A connected worker. Its channel belongs to whoever holds its lock.

    Attributes:
        name: under which it was introduced. key: its certificate's fingerprint.
        info: what it said of itself: ``memory``, ``threads``, ``mesh_port``, ``held``.
        rank: in the present formation. report: its engine's last.
        latency: seconds each way; bandwidth: bytes a second, there and back.
    """

    name: str
    key: str
    channel: Channel
    info: dict[str, Any]
    rank: int | None = None
    report: dict[str, Any] = field(default_factory=dict)
    latency: float | None = None
    bandwidth: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def lost(self) -> bool:
        """Whether its channel broke or was closed."""
        return self.channel.closed

    def ask(self, kind: str, answer: str, seconds: float, /, **fields: Any) -> dict[str, Any]:
        """Send a message and wait for the one that answers it.

        Raises:
            PeerLost, ProtocolError: the worker is gone, or answered something else.
        """
        self.channel.send_message(kind, seconds, **fields)
        return self.channel.receive_message(seconds, answer)

    def measure(self, seconds: float) -> None:
        """Find the latency and bandwidth of its link."""
        self._echo(8, seconds)
        small = min(self._echo(8, seconds) for _ in range(5))
        size = 256 << 10
        large = min(self._echo(size, seconds) for _ in range(2))
        self.latency = small / 2
        self.bandwidth = 2 * size / max(large - small, 1e-6)

    def _echo(self, size: int, seconds: float) -> float:
        began = time.perf_counter()
        self.channel.send(Header(Kind.ECHO, size), bytes(size), seconds)
        header, _ = self.channel.receive(seconds)
        if (header.kind, header.length) != (Kind.ECHO, size):
            raise ProtocolError(f"{self.name} does not echo")
        return time.perf_counter() - began


@dataclass
class Fault:
    """A worker that was lost.

    Attributes:
        name: whose. why: what was seen. at: seconds since 1970. during: what the cluster did.
        resumed: seconds until the cluster computed again; None while it does not.
    """

    name: str
    why: str
    at: float
    during: str
    resumed: float | None = None


class Roster:
    """Who is connected.

    Args:
        hub: the hub's name. seconds: the longest wait for an answer.

    Attributes:
        faults: the last ones.
        changed: notified when somebody comes or goes.
    """

    def __init__(self, hub: str, seconds: float) -> None:
        self._hub, self._seconds = hub, seconds
        self._members: dict[str, Member] = {}
        self.faults: deque[Fault] = deque(maxlen=64)
        self.changed = threading.Condition()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="roster", daemon=True).start()

    def admit(self, channel: Channel, name: str, key: str) -> None:
        """Take in a worker that the door let in; an earlier connection of it is closed."""
        try:
            channel.send_message("hello", self._seconds, hub=self._hub)
            info = channel.receive_message(self._seconds, "hello")
        except EdgekitError as error:
            log.warning("%s came and went: %s", name, error)
            channel.close()
            return
        with self.changed:
            earlier = self._members.get(key)
            self._members[key] = Member(name, key, channel, info)
            self.changed.notify_all()
        if earlier is not None:
            self._replace(earlier)
        log.info("%s is here", name)

    def _replace(self, earlier: Member) -> None:
        """A worker is back before anybody missed it; who computes with it will notice."""
        idle = earlier.lock.acquire(blocking=False)
        if idle:
            earlier.lock.release()
            if not earlier.lost:
                self.remove(earlier, "it connected again", "idle")
        earlier.channel.close()

    def settle(self) -> None:
        """The cluster is complete again: nobody who was lost while idle is missed any more."""
        with self.changed:
            for fault in self.faults:
                if fault.during != DURING and fault.resumed is None:
                    fault.resumed = round(time.time() - fault.at, 3)

    def members(self) -> list[Member]:
        """Who is connected, in the order of coming."""
        with self.changed:
            return [member for member in self._members.values() if not member.lost]

    def remove(self, member: Member, why: str, during: str) -> Fault:
        """A worker is gone: close its channel, and say so in one line."""
        member.channel.close()
        fault = Fault(member.name, why, time.time(), during)
        with self.changed:
            if self._members.get(member.key) is member:
                del self._members[member.key]
            self.faults.append(fault)
            self.changed.notify_all()
        log.warning("%s is lost while %s: %s", member.name, during, why)
        return fault

    def close(self) -> None:
        """Send everybody home."""
        self._ended.set()
        for member in self.members():
            with contextlib.suppress(EdgekitError):
                member.channel.send_message("bye", 1.0)
            member.channel.close()

    def told(self) -> list[dict[str, Any]]:
        """The faults as plain records."""
        with self.changed:
            return [asdict(fault) for fault in self.faults]

    def _watch(self) -> None:
        """Ask those who have nothing to do whether they are there; they, in turn, know by being
        asked that the hub is."""
        while not self._ended.wait(PING):
            for member in self.members():
                if not member.lock.acquire(blocking=False):
                    continue
                try:
                    member.ask("ping", "pong", self._seconds)
                except EdgekitError as error:
                    if not self._ended.is_set():
                        self.remove(member, getattr(error, "reason", str(error)), "idle")
                finally:
                    member.lock.release()
