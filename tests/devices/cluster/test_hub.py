"""A hub and workers in processes of their own: what is computed, who is lost, what goes on."""

import json
import logging
import os
import signal
import threading

import numpy as np
import pytest

pytest.importorskip("cryptography")
pytest.importorskip("tokenizers")

from edgekit.devices.cluster.collective import Alone
from edgekit.devices.cluster.engine import Engine
from edgekit.devices.cluster.split import split
from edgekit.devices.cluster.wire import Channel
from edgekit.errors import DeviceError, InputError

from .processes import Cluster, Relay, tiny_model, wait

PROMPT = [5, 99, 17, 203, 44, 8]
COUNT = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory):
    """Greedy tokens of one rank with nobody else."""
    (folder,) = split(model, tmp_path_factory.mktemp("alone") / "split", [1])
    with Engine.open(folder, 0, Alone(), context=128, threads=1, kernel="numpy") as engine:
        logits, made = engine.prefill(PROMPT), []
        for _ in range(COUNT):
            made.append(int(logits.argmax()))
            logits = engine.decode(made[-1])
    assert len(set(made)) > 8, "the text repeats itself: it would not show a fault"
    return made


@pytest.fixture
def three(model, tmp_path):
    """A hub with two workers."""
    with Cluster(tmp_path, model) as cluster:
        cluster.start("kitchen")
        cluster.start("bedroom")
        yield cluster


def names(cluster):
    return [fault["name"] for fault in cluster.hub.roster.told()]


def test_three_nodes_say_what_one_says(three, alone):
    assert three.generate(PROMPT, COUNT) == alone
    assert three.generate(PROMPT, COUNT) == alone
    told = three.hub.told()
    assert [node["rank"] for node in told["nodes"]] == [0, 1, 2]
    for node in told["nodes"]:
        assert set(node["seconds_per_token"]) == {"seconds", "compute", "link", "stall"}
        assert node["memory"]["total"] > 0
        assert node["memory"]["budget"] is None
        assert 0 < node["memory"]["now"] <= node["memory"]["peak"]
        # Of the last answer's tokens, as many as are kept; the reports are of its end.
        assert node["tokens"] == 2 * (len(PROMPT) + COUNT - 1)
        recent = node["recent"]
        assert recent["tokens"] == 32
        parts = recent["compute"] + recent["link"] + recent["stall"]
        assert recent["seconds"] == pytest.approx(parts)
    shares = [node["share"] for node in told["nodes"]]
    assert [share["heads"] for share in shares] == [2, 2, 2]
    assert sum(share["feed_forward"] for share in shares) == shares[0]["of_feed_forward"] == 160
    assert {(share["of_heads"], share["layers"]) for share in shares} == {(6, 3)}
    assert told["faults"] == []
    assert 0 < told["nodes"][1]["link"]["latency"] < 0.1
    assert told["nodes"][1]["traffic"]["sent"] > COUNT * 6 * 96 * 4


def test_a_common_beginning_is_kept(three, alone):
    three.generate(PROMPT, COUNT)
    before = three.hub.engine.report()["tokens"]
    three.hub.truncate(4)
    three.hub.prefill(PROMPT[4:])
    three.hub.rest()
    assert three.hub.engine.report()["tokens"] == before + 2


@pytest.mark.parametrize(("collective", "wire"), [("auto", "float32"), ("doubling", "float16")])
def test_links_among_workers_and_halves(model, tmp_path, alone, collective, wire):
    with Cluster(tmp_path, model, collective=collective, wire=wire) as cluster:
        cluster.start("kitchen")
        cluster.start("bedroom")
        found = cluster.generate(PROMPT, COUNT)
        told = cluster.hub.told()
    assert found == alone if wire == "float32" else found[:3] == alone[:3]
    if collective == "auto":
        assert set(told["milliseconds"]) == {"star", "doubling", "ring", "choice"}
    else:
        assert told["collective"] == [[0, collective]]


@pytest.mark.parametrize("collective", ["star", "ring"])
def test_a_killed_worker_comes_back_and_the_text_is_the_same(model, tmp_path, alone, collective):
    with Cluster(tmp_path, model, collective=collective) as cluster:
        cluster.start("kitchen")
        cluster.start("bedroom")

        def kill():
            cluster.signal("kitchen", signal.SIGKILL)
            cluster.start("kitchen")

        assert cluster.generate(PROMPT, COUNT, {17: kill}) == alone
        assert "kitchen" in names(cluster)
        assert all(fault["resumed"] < 20 for fault in cluster.hub.told()["faults"])


def test_a_worker_that_hangs_is_named_after_the_deadline(three, alone, caplog):
    def hang():
        three.signal("bedroom", signal.SIGSTOP)
        threading.Timer(4.0, three.signal, ("bedroom", signal.SIGCONT)).start()

    with caplog.at_level(logging.WARNING, "edgekit.cluster"):
        assert three.generate(PROMPT, COUNT, {9: hang}) == alone
    assert names(three) == ["bedroom"]
    assert "bedroom is lost while computing: silent for 3.0 s" in caplog.text


def test_a_replacement_takes_a_lost_workers_place(three, alone):
    three.generate(PROMPT, 1)
    three.start("spare")
    wait(lambda: len(three.hub.roster.members()) == 3)
    assert three.generate(PROMPT, COUNT, {21: lambda: three.signal("kitchen", 9)}) == alone
    ranks = {node["name"]: node.get("rank") for node in three.hub.told()["nodes"]}
    assert ranks.keys() == {"hub", "spare", "bedroom"}
    assert sorted(ranks.values()) == [0, 1, 2]
    assert names(three) == ["kitchen"]


def test_a_smaller_split_is_taken_when_nobody_comes(model, tmp_path, alone):
    with Cluster(tmp_path, model, nodes=(3, 2, 1), grace=1.0) as cluster:
        cluster.start("kitchen")
        cluster.start("bedroom")
        wait(lambda: len(cluster.hub.roster.members()) == 2)
        kill = {name: lambda name=name: cluster.signal(name, 9) for name in cluster.workers}
        found = cluster.generate(PROMPT, COUNT, {11: kill["kitchen"], 25: kill["bedroom"]})
        assert found == alone
        assert [node["name"] for node in cluster.hub.told()["nodes"]] == ["hub"]


def test_a_cut_link_is_noticed_and_mended(model, tmp_path, alone):
    with Cluster(tmp_path, model) as cluster:
        relay = Relay(cluster.hub.door.address)
        cluster.start("kitchen", address=relay.address)
        cluster.start("bedroom")

        def cut():
            relay.open.clear()
            threading.Timer(5.0, relay.open.set).start()

        assert cluster.generate(PROMPT, COUNT, {13: cut}) == alone
        assert names(cluster) == ["kitchen"]


def test_a_slow_worker_is_waited_for(three, alone):
    def slow():
        three.signal("bedroom", signal.SIGSTOP)
        threading.Timer(1.0, three.signal, ("bedroom", signal.SIGCONT)).start()

    assert three.generate(PROMPT, COUNT, {9: slow}) == alone
    assert names(three) == []


def test_who_is_lost_while_idle_is_noticed(three):
    three.generate(PROMPT, 2)
    three.signal("kitchen", signal.SIGKILL)
    wait(lambda: names(three) == ["kitchen"])
    assert three.hub.told()["faults"][0]["during"] == "idle"


def test_who_comes_back_has_to_hear_what_was_said_again(three, alone):
    three.generate(PROMPT, COUNT)
    three.signal("kitchen", signal.SIGKILL)
    wait(lambda: names(three) == ["kitchen"])
    three.start("kitchen")
    three.hub.truncate(len(PROMPT) + 5)  # a beginning that rank 0 has taken in, and kitchen has not
    made = [alone[5]]
    while len(made) < 10:
        made.append(int(three.hub.decode(made[-1]).argmax()))
    assert made == alone[5:15]


def test_workers_go_home_with_the_hub(three):
    three.generate(PROMPT, 2)
    three.hub.close()
    for worker in three.workers.values():
        assert worker.wait(10) == 0
    assert three.log("kitchen").endswith("the hub ended\n")


def test_workers_end_cleanly_when_the_hub_is_gone(model, tmp_path):
    with Cluster(tmp_path, model, nodes=(2,)) as cluster:
        cluster.start("kitchen", patience=1.0)
        cluster.generate(PROMPT, 2)
        cluster.hub.door.close()
        for member in cluster.hub.roster.members():
            member.channel.close()  # what the kernel does for a hub that was killed
        assert cluster.workers["kitchen"].wait(15) == DeviceError.exit_code
        last = cluster.log("kitchen").splitlines()[-1]
        assert last.startswith("error: the hub at 127.0.0.1:")
        assert last.endswith("is gone: connection refused. Next: start it first")


def test_words_never_leave_the_hub(three, monkeypatch):
    """What the hub sends while it computes: hidden states, and frames without ids."""
    three.generate(PROMPT, 1)
    sent = []
    plain = Channel.send
    monkeypatch.setattr(
        Channel,
        "send",
        lambda self, header, content, seconds: (
            sent.append((header, bytes(memoryview(content).cast("B")))),
            plain(self, header, content, seconds),
        )[1],
    )
    three.generate([7, 200, 121], 8)
    kinds = {(header.kind.name, header.dtype.name, header.shape) for header, _ in sent}
    frame, state = ("ARRAY", "UINT8", (32 + 4 * 96,)), ("ARRAY", "FLOAT32", (96,))
    assert {kind for kind in kinds if kind[0] == "ARRAY"} <= {
        *(frame, state),
        *(("ARRAY", "FLOAT32", (count, 96)) for count in (1, 2, 3)),
        *(("ARRAY", "FLOAT32", (count * 96,)) for count in (1, 2, 3)),
    }
    for header, content in sent:
        if header.dtype.name == "UINT8":
            what, first, second, spare = np.frombuffer(content[:32], np.int64)
            assert what in (0, 1, 16)
            assert first <= 3
            assert second <= 11
            assert spare == 0
    said = [content for header, content in sent if header.kind.name == "MESSAGE"]
    assert {json.loads(content)["type"] for content in said} <= {"follow", "ping"}


def test_what_does_not_fit_is_refused_before_it_is_sent(three):
    with pytest.raises(InputError, match="200 tokens do not fit"):
        three.hub.prefill([1] * 200)
    with pytest.raises(InputError, match="not of this model"):
        three.hub.prefill([1, 100_000])
    assert three.hub.position == 0
    assert names(three) == []


def test_a_cluster_that_stays_incomplete_is_given_up(model, tmp_path):
    with (
        Cluster(tmp_path, model, patience=0.3, grace=0.1) as cluster,
        pytest.raises(DeviceError, match="2 workers needed, 0 connected"),
    ):
        cluster.hub.form()


def test_a_worker_that_cannot_says_why(model, tmp_path):
    """Its disk holds something else under the shard's name."""
    with Cluster(tmp_path, model, nodes=(2,), patience=3.0, grace=0.1) as cluster:
        path = tmp_path / "split-2" / "rank-1" / "weights.bin"
        data = bytearray(path.read_bytes())
        data[5000] ^= 1
        path.write_bytes(data)
        cluster.start("kitchen")
        with pytest.raises(DeviceError, match=r"kitchen: .*weights.bin arrived damaged"):
            cluster.hub.form()
        assert cluster.workers["kitchen"].wait(10) == 7
        assert os.listdir(tmp_path / "kitchen/shards") != []
        data[5000] ^= 1
        path.write_bytes(data)
        cluster.start("kitchen")  # mended, it is taken
        cluster.hub.form()
        assert cluster.hub.complete


def test_a_worker_gets_its_own_shard_alone(three, tmp_path):
    three.generate(PROMPT, 1)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/shards/*/*/*"))
    assert len(found) == 4
    for name in ("kitchen", "bedroom"):
        (rank,) = (tmp_path / name / "shards").glob("*/rank-*")
        for file in rank.iterdir():
            assert file.read_bytes() == (tmp_path / "split-3" / rank.name / file.name).read_bytes()
