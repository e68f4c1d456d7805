"""Which algorithm is taken: by what was measured, the same on every rank; links among workers."""

import threading
import time

import numpy as np
import pytest

pytest.importorskip("cryptography")

from edgekit.devices.cluster.choose import Timings, choose
from edgekit.devices.cluster.collectives import Group
from edgekit.devices.cluster.identity import Identity
from edgekit.devices.cluster.mesh import Mesh, Peer
from edgekit.devices.cluster.wire import PeerLost

from .test_collectives import close, groups, on_all

SIZES = (1000, 10_000, 100_000)


def test_the_fastest_is_taken_at_every_size():
    star, doubling, ring = (1.0, 1.5, 9.0), (1.4, 1.5, 4.0), (5.0, 5.0, 5.0)
    found = Timings(("star", "doubling", "ring"), SIZES, (star, doubling, ring))
    choice = found.choice()
    assert [name for _, name in choice] == ["star", "doubling", "ring"]
    assert choice[0][0] == 0
    for size in np.geomspace(1000, 200_000, 60):
        taken = [name for first, name in choice if first <= size][-1]
        best = min(found.at(name, size) for name in found.algorithms)
        assert found.at(taken, size) <= 1.1 * best


def test_the_star_is_kept_where_another_is_hardly_better():
    found = Timings(("star", "doubling"), (1000, 2000), ((1.0, 1.0), (0.93, 0.93)))
    assert found.choice() == [(0, "star")]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_all_ranks_agree(size):
    made = groups(size)
    found = on_all(made, lambda group: choose(group, sizes=(256, 4096), seconds=0.01))
    assert all(one == found[0] for one in found), found
    assert all(group.choice == made[0].choice for group in made)
    names = {1: ("star",), 2: ("doubling", "star"), 4: ("star", "doubling", "ring")}
    assert found[0].algorithms == names[size]
    assert all(second > 0 for row in found[0].seconds for second in row) or size == 1
    close(made)


def test_without_a_mesh_there_is_the_star():
    made = groups(3)
    made[1].channels.pop(2)
    found = on_all(made, lambda group: choose(group, sizes=(256,), seconds=0.01))
    assert {one.algorithms for one in found} == {("star",)}
    close(made)


@pytest.fixture
def workers(tmp_path):
    identities = [Identity.open(tmp_path / str(rank), f"w{rank}") for rank in range(1, 5)]
    made = [Mesh(identity, "127.0.0.1") for identity in identities[:3]]
    yield made, identities
    for mesh in made:
        mesh.close()


def peers_of(made, identities):
    return {
        rank: Peer(identity.name, "127.0.0.1", mesh.port, identity.pem)
        for rank, (mesh, identity) in enumerate(zip(made, identities, strict=False), 1)
    }


def test_workers_link_up_and_sum(workers):
    made, identities = workers
    table = peers_of(made, identities)
    linked = [None] * 3

    def link(rank):
        time.sleep(0.2 * (rank == 1))  # the one that is called may hear of it last
        others = {other: peer for other, peer in table.items() if other != rank}
        linked[rank - 1] = made[rank - 1].connect(7, rank, others, 5)

    threads = [threading.Thread(target=link, args=(rank,)) for rank in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [sorted(one) for one in linked] == [[2, 3], [1, 3], [1, 2]]
    assert linked[0][2].peer == "w2"
    pair = Group(0, 2, {1: linked[0][2]}), Group(1, 2, {0: linked[1][1]})
    sums = on_all(pair, lambda g: (v := np.ones(4, np.float32), g.all_reduce(v), v)[2])
    np.testing.assert_array_equal(sums, np.full((2, 4), 2, np.float32))


def test_a_worker_that_the_hub_did_not_name_is_not_taken(workers):
    made, identities = workers
    table = peers_of(made, identities)
    outsider = Mesh(identities[3], "127.0.0.1")
    made[0]._peers = {}
    with pytest.raises(PeerLost):
        outsider.connect(7, 4, {1: table[1]}, 0.4)
    with pytest.raises(PeerLost, match=r"w2 is lost: it did not call in time"):
        made[0].connect(7, 1, {2: table[2]}, 0.2)
    outsider.close()
