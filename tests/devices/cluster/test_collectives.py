"""Sums over ranks in threads, over real sockets: every algorithm, the same bits on every rank."""

import itertools
import socket
import threading

import numpy as np
import pytest

from edgekit.devices.cluster.collectives import ALGORITHMS, PIECE, Group, Interrupted
from edgekit.devices.cluster.wire import Channel, DType, Header, Kind, PeerLost, ProtocolError


def groups(size, **options):
    """All ranks of a full mesh, over loopback."""
    channels = [{} for _ in range(size)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        for a, b in itertools.combinations(range(size), 2):
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
            channels[a][b] = Channel(ours, f"rank {b}")
            channels[b][a] = Channel(theirs, f"rank {a}")
    return [Group(rank, size, channels[rank], **options) for rank in range(size)]


def on_all(made, work):
    """Run ``work(group)`` on every rank; what each returned, or raised."""
    results = [None] * len(made)

    def run(rank):
        try:
            results[rank] = work(made[rank])
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(made))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return results


def close(made):
    for group in made:
        for channel in group.channels.values():
            channel.close()


@pytest.fixture(params=[1, 2, 3, 4, 5, 8])
def meshed(request):
    made = groups(request.param)
    yield made
    close(made)


def values_of(rank, count):
    return np.random.default_rng(rank).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("count", [1, 7, 4096, PIECE // 4 * 3 + 5])
def test_a_sum_is_the_sum_and_the_same_bits_everywhere(meshed, algorithm, count):
    if algorithm not in meshed[0].available:
        pytest.skip("no ring of two")

    def work(group):
        values = values_of(group.rank, count)
        group.all_reduce_by(algorithm, values)
        return values

    found = on_all(meshed, work)
    due = np.sum([values_of(rank, count).astype(np.float64) for rank in range(len(meshed))], 0)
    np.testing.assert_allclose(found[0], due, atol=1e-5)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    again = on_all(meshed, work)
    np.testing.assert_array_equal(again[0], found[0])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_halves_are_near_at_every_scale_and_the_same_everywhere(algorithm, scale):
    made = groups(5, wire="float16")
    try:
        count = PIECE // 4 + 3

        def work(group):
            values = values_of(group.rank, count) * np.float32(scale)
            group.all_reduce_by(algorithm, values)
            return values

        found = on_all(made, work)
    finally:
        close(made)
    due = np.sum([values_of(rank, count) for rank in range(5)], 0) * scale
    assert np.abs(found[0] - due).max() < 5e-3 * np.abs(due).max()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_halves_send_half_as_much():
    made = {wire: groups(3, wire=wire) for wire in ("float32", "float16")}
    for each in made.values():
        on_all(each, lambda group: group.all_reduce(np.ones(5000, np.float32)))
    sent = {wire: each[1].channels[0].traffic.sent for wire, each in made.items()}
    assert sent == {"float32": 20000 + 44, "float16": 10000 + 44}
    for each in made.values():
        close(each)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_rank_0s_values_reach_everybody(meshed, dtype):
    def work(group):
        values = np.full((2, 3), group.rank + 5, dtype)
        group.broadcast(values)
        return values

    for found in on_all(meshed, work):
        np.testing.assert_array_equal(found, np.full((2, 3), 5, dtype))


def test_gathering_gives_rank_0_everybodys(meshed):
    found = on_all(meshed, lambda group: group.gather(np.array([group.rank], np.int32)))
    assert [int(one[0]) for one in found[0]] == list(range(len(meshed)))
    assert found[1:] == [None] * (len(meshed) - 1)


def test_a_star_needs_links_to_the_hub_alone():
    made = groups(4)
    for group in made[1:]:
        group.channels = {0: group.channels[0]}
    assert [group.available for group in made] == [ALGORITHMS, *[("star",)] * 3]
    found = on_all(made, lambda group: group.all_reduce(np.ones(3, np.float32)))
    assert found == [None] * 4
    close(made)


def test_the_choice_goes_by_size(monkeypatch):
    group = Group(0, 4, {})
    used = []
    monkeypatch.setattr(group, "all_reduce_by", lambda name, values: used.append(name))
    group.choice = [(0, "star"), (1000, "doubling"), (100_000, "ring")]
    for count in (1, 249, 250, 24_999, 25_000, 10**6):
        group.all_reduce(np.zeros(count, np.float32))
    assert used == ["star", "star", "doubling", "doubling", "ring", "ring"]


def test_only_what_can_be_summed_in_place_is():
    made = groups(2)
    with pytest.raises(ProtocolError, match="contiguous float32"):
        made[0].all_reduce(np.zeros(4))
    with pytest.raises(ProtocolError, match="contiguous float32"):
        made[0].all_reduce(np.zeros((4, 4), np.float32)[:, :2])
    close(made)


def test_a_silent_rank_is_named_after_the_deadline():
    made = groups(3, seconds=0.3)
    made[0].channels[2].peer = "bedroom"
    found = on_all(made, lambda g: g.rank == 2 or g.all_reduce(np.ones(3, np.float32)))
    assert isinstance(found[0], PeerLost)
    assert (found[0].peer, found[0].reason) == ("bedroom", "silent for 0.3 s")
    close(made)


def test_a_message_instead_of_an_array_interrupts():
    made = groups(2)
    made[0].channels[1].send_message("abort", 1, why="kitchen is lost")
    with pytest.raises(Interrupted, match="kitchen is lost") as caught:
        made[1].all_reduce(np.ones(3, np.float32))
    assert caught.value.message["type"] == "abort"
    close(made)


@pytest.mark.parametrize("field", ["epoch", "step", "sequence", "shape", "dtype", "kind"])
def test_a_frame_of_another_operation_is_refused(field):
    made = groups(2)
    made[1].begin(3)
    told = {"epoch": 0, "step": 3, "sequence": 1, "shape": (3,), "dtype": DType.FLOAT32}
    told |= {"kind": Kind.ARRAY, "length": 12}
    told |= {
        "epoch": {"epoch": 1},
        "step": {"step": 2},
        "sequence": {"sequence": 2},
        "shape": {"shape": (1, 3)},
        "dtype": {"dtype": DType.INT32},
        "kind": {"kind": Kind.ECHO, "dtype": DType.NONE, "shape": ()},
    }[field]
    made[0].channels[1].send(Header(**told), bytes(12), 1)
    with pytest.raises(ProtocolError, match="is elsewhere"):
        made[1].all_reduce(np.ones(3, np.float32))
    close(made)
