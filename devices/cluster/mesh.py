"""Links among the workers, for the algorithms that need more than a star."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from .door import Door
from .identity import Identity, Pinned, fingerprint
from .secure import call
from .wire import Channel, PeerLost, ProtocolError


@dataclass(frozen=True)
class Peer:
    """Another worker, as the hub describes it.

    Attributes:
        name, host, port: where it listens. certificate: PEM.
    """

    name: str
    host: str
    port: int
    certificate: str


class Mesh:
    """A worker's door for other workers, and its calls to them.

    A worker takes no certificate but those that the hub named for the present epoch. The higher
    rank calls the lower.

    Args:
        identity: this device's. host: where to listen.
    """

    def __init__(self, identity: Identity, host: str) -> None:
        self._identity = identity
        self._peers: dict[str, Pinned] = {}
        self._came: dict[tuple[int, int], Channel] = {}
        self._changed = threading.Condition()
        self._door = Door(identity, lambda: dict(self._peers), self._admit, address=(host, 0))
        self.port = self._door.address[1]

    def close(self) -> None:
        """Listen no longer."""
        self._door.close()

    def _admit(self, channel: Channel, name: str, key: str) -> None:
        try:
            said = channel.receive_message(5.0, "peer")
            place = int(said["epoch"]), int(said["rank"])
            channel.send_message("peer", 5.0)
        except (PeerLost, ProtocolError, KeyError, TypeError, ValueError):
            channel.close()
            return
        with self._changed:
            self._came[place] = channel
            self._changed.notify_all()

    def connect(
        self, epoch: int, rank: int, peers: Mapping[int, Peer], seconds: float
    ) -> dict[int, Channel]:
        """Links to all other workers.

        Args:
            epoch: of the cluster. rank: this one. peers: every other worker by its rank.

        Raises:
            PeerLost: one cannot be reached, or did not call in time.
        """
        until = time.monotonic() + seconds
        pinned = {rank: Pinned(peer.name, peer.certificate) for rank, peer in peers.items()}
        self._peers = {fingerprint(pin.der).hex(): pin for pin in pinned.values()}
        channels: dict[int, Channel] = {}
        try:
            for other in sorted(other for other in peers if other < rank):
                said = {"epoch": epoch, "rank": rank}
                channels[other] = self._call(peers[other], pinned[other], until, said)
            for other in sorted(other for other in peers if other > rank):
                channels[other] = self._wait(epoch, other, peers[other], until)
        except Exception:
            for channel in channels.values():
                channel.close()
            raise
        return channels

    def _call(self, peer: Peer, pinned: Pinned, until: float, said: dict[str, int]) -> Channel:
        while True:
            left = max(until - time.monotonic(), 0.1)
            address, channel = (peer.host, peer.port), None
            try:
                channel = call(address, self._identity, pinned.der, peer.name, left)
                channel.send_message("peer", left, **said)
                channel.receive_message(left, "peer")
                return channel
            except PeerLost:
                if channel is not None:
                    channel.close()
                # It may not have heard of us yet, and refused a certificate that it will take.
                if time.monotonic() + 0.1 > until:
                    raise
                time.sleep(0.1)

    def _wait(self, epoch: int, rank: int, peer: Peer, until: float) -> Channel:
        with self._changed:
            while (epoch, rank) not in self._came:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise PeerLost(peer.name, "it did not call in time")
            channel = self._came.pop((epoch, rank))
        channel.peer = peer.name
        return channel
