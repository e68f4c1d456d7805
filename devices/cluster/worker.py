"""A worker: it joins a hub, fetches its shard, and computes its part until it is sent home."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from edgekit.errors import DeviceError, EdgekitError

from .collectives import Group, Interrupted
from .door import join
from .engine import STOP, Engine
from .identity import Identity, Pinned, Pins, fingerprint
from .join_code import JoinCode
from .mesh import Mesh, Peer
from .secure import call
from .transfer import FileEntry, fetch, parse_files
from .wire import Channel, Header, Kind, PeerLost, ProtocolError, expect

REPORT: Final = 16  # announced between two steps: say how it goes
RETRY: Final = 0.5  # seconds between two calls to a hub that is not there
GRACE: Final = 3.0  # seconds that a worker waits for the hub beyond twice the hub's own deadline

log = logging.getLogger("edgekit.cluster")


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker works.

    Attributes:
        address: of the hub.
        state: folder of its identity, of the hub's certificate and of its shards.
        name: how the hub will call it.
        memory_budget: bytes of the whole process; None for no bound.
        threads: of computing; None for all cores.
        patience: seconds for which a hub that is gone is called again.
        mesh_host: where it listens for other workers.
        engine: further arguments of :meth:`.Engine.open`.
    """

    address: tuple[str, int]
    state: Path
    name: str
    memory_budget: int | None = None
    threads: int | None = None
    patience: float = 60.0
    mesh_host: str = "0.0.0.0"  # noqa: S104 - only pinned certificates get in
    engine: dict[str, Any] = field(default_factory=dict)


class Worker:
    """One rank of a cluster, but for rank 0.

    Args:
        code: the join code; needed the first time only, and not used again later.
        notify: told in a line what it does.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        code: JoinCode | None = None,
        notify: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._settings, self._notify = settings, notify
        self._identity = Identity.open(settings.state, settings.name)
        self._hub = self._introduced(code)
        self._mesh = Mesh(self._identity, settings.mesh_host)
        self._engine: Engine | None = None
        self._group = Group(1, 2, {})
        self._holds: tuple[str, int] | None = None
        self._patience = 10.0  # seconds; from the hub, in its first assignment

    def _introduced(self, code: JoinCode | None) -> Pinned:
        """The hub's certificate: from disk, or got by the join code."""
        pins = Pins(self._settings.state / "hubs.json")
        known = list(pins.all().values())
        if code is not None:
            match = [pin for pin in known if fingerprint(pin.der).startswith(code.hub)]
            if match:
                return match[0]  # a service that starts again still has its code in its command
            der = join(self._settings.address, code, self._identity)
            self._notify("introduced to the hub")
            return pins.add("hub", der)
        if len(known) != 1:
            raise DeviceError(
                "this device knows no hub" if not known else "this device knows several hubs",
                str(self._settings.state),
                "edgekit cluster worker --join HOST:PORT --code CODE",
            )
        return known[0]

    def run(self) -> None:
        """Until the hub sends it home.

        Raises:
            DeviceError: the hub was gone for longer than the patience, or refused.
        """
        last = time.monotonic()
        try:
            while True:
                try:
                    channel = self._call()
                    self._attend(channel)
                    return
                except PeerLost as lost:
                    if self._attended:
                        last = time.monotonic()
                        self._notify(f"the hub is lost ({lost.reason}); calling it again")
                    if time.monotonic() - last > self._settings.patience:
                        raise DeviceError(
                            f"the hub at {self._where} is gone", lost.reason, "start it first"
                        ) from lost
                    time.sleep(RETRY)
        finally:
            self.close()

    def close(self) -> None:
        """End the engine and the links."""
        self._mesh.close()
        self._drop_engine()
        self._unlink()

    @property
    def _where(self) -> str:
        return "{}:{}".format(*self._settings.address)

    def _call(self) -> Channel:
        self._attended = False
        return call(self._settings.address, self._identity, self._hub.der, "the hub", 5.0)

    def _attend(self, channel: Channel) -> None:
        """Do what the hub says until it says goodbye."""
        try:
            channel.receive_message(self._patience, "hello")
            channel.send_message("hello", self._patience, **self._about())
            self._attended = True
            self._notify(f"connected to the hub at {self._where}")
            while self._obey(channel, *channel.receive(self._patience)):
                pass
        except EdgekitError as error:
            if not isinstance(error, PeerLost):
                with contextlib.suppress(EdgekitError):
                    channel.send_message("failed", 2.0, why=str(error))
            raise
        finally:
            self._unlink()
            channel.close()

    def _about(self) -> dict[str, Any]:
        settings = self._settings
        budget = settings.memory_budget or psutil.virtual_memory().total
        shards = settings.state / "shards"
        held = [str(path.relative_to(shards)) for path in shards.glob("*/rank-*")]
        threads = settings.threads or len(os.sched_getaffinity(0))
        about = {"memory": budget, "threads": threads, "mesh_port": self._mesh.port}
        return about | {"held": held}

    def _obey(self, channel: Channel, header: Header, content: memoryview) -> bool:
        if header.kind == Kind.ECHO:
            channel.send(header, content, self._patience)
            return True
        if header.kind != Kind.MESSAGE:
            raise ProtocolError(f"the hub sent {header.kind.name.lower()}", "a message is due")
        said = expect(header, content, channel.peer)
        try:
            act = _ACTS[said["type"]]
        except KeyError:
            raise ProtocolError("the hub asks for what is not known", said["type"]) from None
        try:
            return act(self, channel, said) is not False
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"the hub's {said['type']} makes no sense", repr(error)) from error

    def _assign(self, channel: Channel, said: dict[str, Any]) -> None:
        """Get ready as a rank: the shard, the engine, the group."""
        rank, size, split = int(said["rank"]), int(said["size"]), str(said["split"])
        if len(bytes.fromhex(split)) != 12 or not 0 < rank < size:
            raise ValueError(split)
        self._patience = 2 * float(said["seconds"]) + GRACE
        folder = self._settings.state / "shards" / split / f"rank-{rank}"
        files = parse_files(said["files"])
        self._fetch(channel, folder, files)
        self._unlink()
        if self._holds != (split, rank):
            self._drop_engine()
            self._group = Group(rank, size, {0: channel})
            self._open(channel, folder, rank, int(said["context"]))
            self._holds = (split, rank)
        group = self._group
        group.channels = {0: channel}
        group.epoch, group.seconds = int(said["epoch"]), float(said["seconds"])
        group.hub_seconds = self._patience
        group.set_wire(str(said["wire"]))
        channel.send_message("ready", 5.0, chunk=self._engine.plan.chunk, **self._told())
        self._notify(f"rank {rank} of {size}, ready")

    def _fetch(self, channel: Channel, folder: Path, files: dict[str, FileEntry]) -> None:
        began = time.monotonic()
        shown = [began]

        def tell(have: int, total: int) -> None:
            if time.monotonic() - shown[0] > 2.0 or have == total:
                shown[0] = time.monotonic()
                self._notify(f"shard: {have / 1e6:.1f} of {total / 1e6:.1f} MB")

        fetch(channel, folder, files, self._patience, tell)

    def _open(self, channel: Channel, folder: Path, rank: int, context: int) -> None:
        """Open the engine; the hub is told now and then that this is not the end."""
        outcome: list[Any] = []
        settings = self._settings

        def work() -> None:
            try:
                outcome.append(
                    Engine.open(
                        *(folder, rank, self._group, settings.memory_budget, context),
                        threads=settings.threads,
                        **settings.engine,
                    )
                )
            except Exception as error:  # raised again below, in the thread that asked
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            thread.join(1.0)
            channel.send_message("busy", 5.0)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        self._engine = outcome[0]
        self._group.reserve(self._engine.shard.language.hidden)

    def _link(self, channel: Channel, said: dict[str, Any]) -> None:
        """Connect to the other workers; if that is not possible, the star does without."""
        peers = {int(rank): Peer(**peer) for rank, peer in said["peers"].items()}
        try:
            links = self._mesh.connect(
                self._group.epoch, self._group.rank, peers, float(said["seconds"])
            )
            self._group.channels = {0: channel} | links
            channel.send_message("linked", 5.0, links=len(links))
        except PeerLost as lost:
            channel.send_message("linked", 5.0, links=0, why=str(lost))

    def _measure(self, channel: Channel, said: dict[str, Any]) -> None:
        from .choose import choose

        self._group.begin(int(said["step"]))
        choose(self._group)

    def _follow(self, channel: Channel, said: dict[str, Any]) -> None:
        """Compute with the others until rank 0 stops, or somebody fails."""
        if self._engine is None:
            raise ProtocolError("the hub begins a step", "this worker has no shard yet")
        self._group.begin(int(said["step"]))
        self._group.choice = [(int(first), str(name)) for first, name in said["choice"]]
        try:
            while (what := self._engine.serve_step()[0]) != STOP:
                if what == REPORT:
                    self._report(channel, said)
        except Interrupted as interrupted:
            self._engine.reset()
            if interrupted.message.get("type") != "abort":
                raise ProtocolError(f"{interrupted.peer} broke off", str(interrupted)) from None
            channel.send_message("aborted", 5.0)
        except PeerLost as lost:
            self._engine.reset()
            if channel.closed:
                raise
            self._stuck(channel, lost)

    def _stuck(self, channel: Channel, lost: PeerLost) -> None:
        """Another worker is lost; only the hub can say what happens now."""
        channel.send_message("stuck", 5.0, peer=lost.peer, why=lost.reason)
        header, content = channel.receive(self._patience)
        while header.kind == Kind.ARRAY:  # the hub's part of the sum that is broken off
            header, content = channel.receive(self._patience)
        expect(header, content, channel.peer, "abort")
        channel.send_message("aborted", 5.0)

    def _abort(self, channel: Channel, said: dict[str, Any]) -> None:
        if self._engine is not None:
            self._engine.reset()
        channel.send_message("aborted", 5.0)

    def _report(self, channel: Channel, said: dict[str, Any]) -> None:
        channel.send_message("report", 5.0, **self._told())

    def _told(self) -> dict[str, Any]:
        if self._engine is None:
            return {}
        links = self._group.channels.values()
        traffic = {
            "sent": sum(link.traffic.sent for link in links),
            "received": sum(link.traffic.received for link in links),
        }
        return {"report": self._engine.report() | {"traffic": traffic}}

    def _pong(self, channel: Channel, said: dict[str, Any]) -> None:
        channel.send_message("pong", self._patience)

    def _bye(self, channel: Channel, said: dict[str, Any]) -> bool:
        self._notify("the hub ended")
        return False

    def _unlink(self) -> None:
        for rank, link in self._group.channels.items():
            if rank:
                link.close()

    def _drop_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine, self._holds = None, None


_ACTS: Final[dict[str, Callable[[Worker, Channel, dict[str, Any]], bool | None]]] = {
    "ping": Worker._pong,
    "assign": Worker._assign,
    "link": Worker._link,
    "measure": Worker._measure,
    "follow": Worker._follow,
    "abort": Worker._abort,
    "report": Worker._report,
    "bye": Worker._bye,
}
