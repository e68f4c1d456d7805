"""One rank of the all-reduce benchmark: links to all others, then sums by each algorithm in turn.

Arguments: a JSON document with ``rank``, ``addresses`` (one a rank), ``port``, ``folder`` (of
identities), ``ways`` (``plain``, ``tls``), ``algorithms``, ``sizes``, ``rounds``, ``seconds`` (a
round), ``auto`` (whether an algorithm is chosen first).
Rank 0 prints milliseconds by way, algorithm and size, one a round.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.cluster.choose import choose
from edgekit.devices.cluster.collectives import Group
from edgekit.devices.cluster.door import Door
from edgekit.devices.cluster.identity import Identity, Pinned, fingerprint
from edgekit.devices.cluster.secure import call
from edgekit.devices.cluster.wire import Channel, PeerLost

PATIENCE = 60.0


def plain_links(rank: int, addresses: list[str], port: int) -> dict[int, Channel]:
    """TCP without more: the higher rank calls, and says who it is."""
    links = {}
    with socket.create_server((addresses[rank], port + rank), backlog=32) as server:
        for other in range(rank):
            where = (addresses[other], port + other)
            plain = retried(partial(socket.create_connection, where, timeout=PATIENCE))
            links[other] = Channel(plain, f"rank {other}")
            links[other].send_message("rank", PATIENCE, rank=rank)
        for _ in range(len(addresses) - 1 - rank):
            channel = Channel(server.accept()[0], "a rank")
            links[channel.receive_message(PATIENCE, "rank")["rank"]] = channel
    return links


def retried(connect: Callable[[], Any]) -> Any:
    """A connection to who may not listen yet, or has too many callers at once."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return connect()
        except (OSError, PeerLost):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def secure_links(rank: int, addresses: list[str], port: int, folder: Path) -> dict[int, Channel]:
    """Mutual TLS between pinned certificates."""
    identities = [Identity.open(folder / str(i), f"rank {i}") for i in range(len(addresses))]
    pins = {fingerprint(one.der).hex(): Pinned(one.name, one.pem) for one in identities}
    links: dict[int, Channel] = {}
    changed = threading.Condition()

    def admit(channel: Channel, name: str, key: str) -> None:
        with changed:
            links[int(name.split()[1])] = channel
            changed.notify_all()

    door = Door(identities[rank], lambda: pins, admit, address=(addresses[rank], port + rank))
    for other in range(rank):
        where, der = (addresses[other], port + other), identities[other].der
        links[other] = retried(partial(call, where, identities[rank], der, str(other), PATIENCE))
    with changed:
        changed.wait_for(lambda: len(links) == len(addresses) - 1, PATIENCE)
    door.close()
    return links


def batch(group: Group, algorithm: str, values: np.ndarray, count: int) -> float:
    """Mean milliseconds from the end of one sum to the end of the next.

    ``count`` is even: where two ranks wait for each other in turns, every other sum looks short.
    After a pause, TCP sends less at first: some sums go before.
    """
    for _ in range(3):
        group.all_reduce_by(algorithm, values)
    began = time.perf_counter()
    for _ in range(count):
        group.all_reduce_by(algorithm, values)
    return 1e3 * (time.perf_counter() - began) / count


def counted(group: Group, algorithm: str, values: np.ndarray, seconds: float) -> int:
    """How many sums fill the time; warms up, too."""
    once = batch(group, algorithm, values, 2)
    count = np.array([2 * max(2, min(150, int(1e3 * seconds / once / 2)))], np.int64)
    group.broadcast(count)
    return int(count[0])


def main() -> None:
    told = json.loads(sys.argv[1])
    rank, addresses, port = told["rank"], told["addresses"], told["port"]
    make = {
        "plain": lambda: plain_links(rank, addresses, port),
        "tls": lambda: secure_links(rank, addresses, port + 50, Path(told["folder"])),
    }
    found, choices = {}, {}
    total = len(addresses)
    groups = {way: Group(rank, total, make[way](), seconds=PATIENCE) for way in told["ways"]}
    for way, group in groups.items():
        if told["auto"]:
            choose(group)
            choices[way] = group.choice
    algorithms = told["algorithms"][: 3 if len(addresses) > 2 else 2]
    for size in told["sizes"]:
        values = np.zeros(size // 4, np.float32)
        plan = [(way, one) for way in groups for one in algorithms]
        counts = {(w, one): counted(groups[w], one, values, told["seconds"]) for w, one in plan}
        for _ in range(told["rounds"]):  # in turns: what disturbs one disturbs all
            for way, one in plan:
                mean = batch(groups[way], one, values, counts[way, one])
                found.setdefault(f"{way} {one} {size}", []).append(mean)
    if rank == 0:
        print(json.dumps({"times": found, "choices": choices}))


if __name__ == "__main__":
    main()
