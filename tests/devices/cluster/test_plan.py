"""The plan divides what split writes, and the simulation is right where it can be worked out."""

from __future__ import annotations

import json

import pytest

from edgekit.cli import main
from edgekit.devices.cluster.layout import blocks_of, language_of
from edgekit.devices.cluster.plan import Setup, alternatives, predict
from edgekit.devices.cluster.shard import Block, Tensor, read_shard
from edgekit.devices.cluster.simulate import Device, Link, Rank, simulate
from edgekit.devices.cluster.split import split
from edgekit.errors import MemoryBudgetError

from .helpers import save_model


@pytest.mark.parametrize(("family", "precision"), [("qwen2", "int4"), ("qwen3", "bf16")])
def test_blocks_are_those_that_split_writes(tmp_path, family, precision):
    save_model(tmp_path / "model", family)
    for folder in split(tmp_path / "model", tmp_path / "out", [2, 1], precision):
        shard = read_shard(folder)
        assert shard.blocks == blocks_of(shard.language, shard.share, shard.rank, precision)


def test_sizes_of_known_models_are_published():
    # Of their model cards, matrices alone; norms are the rest.
    for name, billions in (("llama-2-7b", 6.738), ("llama-2-70b", 68.98), ("llama-3.1-8b", 8.03)):
        assert language_of(name).parameters / 1e9 == pytest.approx(billions, rel=2e-3)


def equal_blocks(count: int, size: int) -> tuple[Block, ...]:
    kinds = ("attention", "feed_forward")
    tensor = {"m": Tensor(0, "int8", 16, 64)}
    return tuple(Block(kinds[i % 2], i // 2, i * size, size, tensor) for i in range(count))


def ranks(count: int = 1, kept=(), **device) -> list[Rank]:
    blocks = equal_blocks(10, 1000)
    device = Device(**({"disk": 1e6, "bandwidth": 1e7, "overhead": 0.0} | device))
    return [Rank(blocks, frozenset(kept), 3000, device) for _ in range(count)]


def test_what_stays_costs_its_products():
    assert simulate(ranks(kept=range(10)), Link(), 8).seconds == pytest.approx(10 * 1e-4)


def test_a_slow_disk_hides_computing():
    # 1 ms to read a block, 0.1 ms to compute it: all is waiting for the disk.
    token = simulate(ranks(), Link(), 8)
    assert token.seconds == pytest.approx(10 * 1e-3)
    assert token.stall[0] == pytest.approx(10 * 0.9e-3)


def test_a_fast_disk_is_hidden():
    token = simulate(ranks(disk=1e8), Link(), 8)
    assert token.seconds == pytest.approx(10 * 1e-4)
    assert token.stall[0] == pytest.approx(0, abs=1e-12)


def test_half_of_the_blocks_halve_the_reading():
    token = simulate(ranks(kept=range(0, 10, 2)), Link(), 8)
    assert token.seconds == pytest.approx(5 * 1e-3, rel=0.05)


def test_sums_are_waited_for_and_the_slowest_decides():
    two = ranks(2, kept=range(10))
    two[1] = Rank(two[1].blocks, two[1].kept, 0, Device(1e6, 5e6, overhead=0.0))
    link = Link(1e-3, 1e9)
    token = simulate(two, link, 250)
    frame = 1e-3 + 1000 / 1e9
    assert token.seconds == pytest.approx(frame + 10 * (2e-4 + 1e-3 + 1000 / 1e9))


def test_links_by_number_of_ranks():
    link = Link(1e-3, 1e6)
    assert link.all_reduce(1000, 1) == 0
    assert link.all_reduce(1000, 2) == pytest.approx(2e-3)
    assert link.all_reduce(1000, 5) == pytest.approx(2e-3 + 8 * 1e-3)


def setup(**changes) -> Setup:
    nodes = changes.pop("nodes", 8)
    values = {
        "language": language_of("llama-2-70b"),
        "precision": "int8",
        "ratio": (1.0,) * nodes,
        "memories": (3 * 10**9,) * nodes,
        "devices": (Device(1e9, 15e9),) * nodes,
        "link": Link(1e-3, 125e6),
    }
    return Setup(**(values | changes))


def test_a_budget_is_kept_and_what_helps_is_named():
    found = predict(setup())
    assert max(found.peaks) <= 3 * 10**9
    assert found.bound_by == "disk"
    others = alternatives(setup())
    assert set(others) == {"9 devices", "int4"}
    assert all(one.token.seconds < found.token.seconds for one in others.values())
    # Nothing is read where everything fits, and then the disk does not matter.
    roomy = predict(setup(memories=(16 * 10**9,) * 8))
    assert set(roomy.streamed) == {0}
    assert roomy.saves["disk"] == pytest.approx(0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(MemoryBudgetError, match="rank 0"):
        predict(setup(memories=(10**8,) * 8))


def test_the_command(capsys):
    options = ["--model", "llama-2-13b", "--nodes", "4", "--memory", "3GB", "--link", "1ms,1Gbit"]
    assert main(["cluster", "plan", *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["peak_bytes"]) == 4
    assert said["token_seconds"] > said["link_seconds"] > 0
    assert main(["cluster", "plan", *options[:-1], "fast"]) == 2
    assert "is no link" in capsys.readouterr().err
    assert main(["cluster", "plan", "--model", "llama-2-70b", "--memory", "200MB"]) == 10


def test_split_from_the_command_line(tmp_path, capsys):
    save_model(tmp_path / "model", "llama")
    arguments = ["cluster", "split", str(tmp_path / "model"), "--nodes", "2", "--ratio", "2:1"]
    assert main([*arguments, "-o", str(tmp_path / "out"), "--json", "--quiet"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["heads"] for row in said["ranks"]] == [4, 2]
    listed = json.loads((tmp_path / "out" / "cluster.json").read_text())
    assert listed["ranks"][1]["files"]["weights.bin"]["sha256"] == said["ranks"][1]["sha256"]
    assert main([*arguments[:-1], "1:1:1", "-o", str(tmp_path / "other")]) == 2
    (tmp_path / "file").write_text("")
    assert main([*arguments, "-o", str(tmp_path / "file")]) == 8
    assert "is there already" in capsys.readouterr().err
