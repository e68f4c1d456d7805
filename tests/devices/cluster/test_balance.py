"""Parts follow what devices can do: bandwidth first, then memory, then the disk."""

from __future__ import annotations

import json

import pytest

from edgekit.cli import main
from edgekit.devices import profiles
from edgekit.devices.cluster.balance import Node, balance, nodes_of
from edgekit.devices.cluster.layout import language_of
from edgekit.devices.cluster.plan import Setup, predict
from edgekit.devices.cluster.simulate import Device, Link
from edgekit.errors import MemoryBudgetError, UsageError

from .processes import tiny_model

MODEL = language_of("llama-2-7b")


def text(name: str, memory: int = 16 << 30, bandwidth=None, measured=None, disk=None) -> str:
    """A profile as TOML; bandwidths in bytes a second."""
    lines = [f'name = "{name}"', 'title = "Made up"', 'kind = "board"', f"memory_bytes = {memory}"]
    if bandwidth:
        lines.append(f"memory_bandwidth = {bandwidth}")
    lines += ["[processor]", 'name = "Made up"', 'cores = [{ kind = "core", count = 4 }]']
    if measured or disk:
        lines.append("[measured]")
    if measured:
        lines.append(f"memory_bandwidth = {measured}")
    if disk:
        lines.append(f"disk_read_bandwidth = {disk}")
    lines += ["[export]", 'targets = ["onnx"]', 'precision = "fp32"', 'why = "made up"']
    return "\n".join([*lines, "[[sources]]", 'what = "nothing"', 'where = "nowhere"', ""])


def nodes(*figures: dict) -> tuple[Node, ...]:
    made = [text(f"d{i}", **one).encode() for i, one in enumerate(figures)]
    return nodes_of([profiles.parse(one, "made up") for one in made])


def setup_of(parts, ratio, precision: str = "int8") -> Setup:
    return Setup(
        MODEL,
        precision,
        tuple(ratio),
        tuple(one.memory for one in parts),
        tuple(Device(one.disk, one.bandwidth) for one in parts),
        Link(),
    )


def test_bandwidth_decides_where_memory_is_enough():
    found = balance(MODEL, nodes(*({"bandwidth": rate * 10**9} for rate in (20, 10, 10))), "int8")
    assert found.ratio == pytest.approx((0.5, 0.25, 0.25))
    assert [part.share.sizes for part in found.parts] == [
        *[(16, 16, 5504), (8, 8, 2752), (8, 8, 2752)]
    ]
    assert [part.streamed for part in found.parts] == [0, 0, 0]
    assert found.notes == ()


@pytest.mark.parametrize("small", [0, 2])
def test_who_is_full_gives_the_rest_to_the_others(small):
    devices = [{"bandwidth": 10**10} for _ in range(3)]
    devices[small]["memory"] = 2 << 30
    found = balance(MODEL, nodes(*devices), "int8")
    assert found.ratio[small] < 0.25
    others = [part for rank, part in enumerate(found.ratio) if rank != small]
    assert others[0] == pytest.approx(others[1])
    assert sum(found.ratio) == pytest.approx(1)
    assert [part.why.startswith("its memory is full") for part in found.parts] == [
        rank == small for rank in range(3)
    ]
    # The plan, which divides memory block by block, finds the same bytes and nothing to be read.
    planned = predict(setup_of([part.node for part in found.parts], found.ratio))
    assert planned.peaks == tuple(part.needed for part in found.parts)
    assert set(planned.streamed) == {0}
    assert all(part.needed <= part.node.memory for part in found.parts)
    # No head more would have fitted into the small one.
    part = found.parts[small]
    head = (part.needed - 60 * 2**20) / part.share.sizes[0]
    assert part.node.memory - part.needed < 1.5 * head


def test_whole_heads_are_taken_away_until_all_fit():
    # Of every size, so that for some the nearest whole head would be too much.
    for memory in range(1200 << 20, 3000 << 20, 150 << 20):
        found = balance(MODEL, nodes({"memory": memory}, {"memory": memory}, {}), "int8")
        assert [part.streamed for part in found.parts] == [0, 0, 0], memory


def test_a_small_device_streams_a_small_part():
    small = {"memory": 120 << 20, "bandwidth": 10**10}
    smollm = language_of("smollm2-135m")
    found = balance(smollm, nodes(small, {"memory": 120 << 20, "bandwidth": 10**11}), "fp32", 128)
    assert all(part.streamed for part in found.parts)
    assert found.parts[1].share.sizes[0] > found.parts[0].share.sizes[0]


def test_who_has_no_bandwidth_is_as_slow_as_the_slowest():
    found = balance(MODEL, nodes({"bandwidth": 2 * 10**10}, {}, {"bandwidth": 10**10}), "int8")
    assert found.ratio == pytest.approx((0.5, 0.25, 0.25))
    assert found.parts[1].node.bandwidth_from == "assumed"
    assert "assumed" in found.parts[1].why
    assert found.notes == ("no memory bandwidth of d1: taken to be the slowest other one's",)
    equal = balance(MODEL, nodes({}, {}), "int8")
    assert equal.ratio == pytest.approx((0.5, 0.5))
    assert "equally fast" in equal.notes[0]


def test_like_is_compared_with_like():
    both = {"bandwidth": 3 * 10**10, "measured": 10**10}
    every = balance(MODEL, nodes(both, both | {"measured": 3 * 10**10}), "int8")
    assert every.ratio == pytest.approx((0.25, 0.75))
    peaks = balance(MODEL, nodes(both, {"bandwidth": 3 * 10**10}), "int8")
    assert peaks.ratio == pytest.approx((0.5, 0.5))
    assert peaks.notes == ()
    mixed = balance(MODEL, nodes({"measured": 10**10}, {"bandwidth": 3 * 10**10}), "int8")
    assert mixed.ratio == pytest.approx((0.25, 0.75))
    assert "measured and some are stated peaks" in mixed.notes[0]


def test_what_nobody_can_hold_is_read_by_the_disks_speed():
    memory = {"memory": 3 << 30, "bandwidth": 10**10}
    devices = nodes(memory | {"disk": 10**9}, memory | {"disk": 2 * 10**8}, memory)
    found = balance(MODEL, devices, "bf16")
    assert "read again for each token" in found.notes[0]
    assert found.notes[1] == "no disk speed of d2: the slowest other one's is taken"
    fast, slow, unknown = (part.streamed for part in found.parts)
    # Heads are whole ones and the ring takes room: about, not exactly, five times as much.
    assert 3.5 < fast / slow < 6
    assert unknown == pytest.approx(slow, rel=0.25)
    assert "from its disk" in found.parts[0].why
    here = [part.node for part in found.parts]
    seconds = predict(setup_of(here, found.ratio, "bf16")).token.seconds
    assert seconds < 0.5 * predict(setup_of(here, (1, 1, 1), "bf16")).token.seconds


def test_a_device_that_cannot_even_stream_is_named():
    small = {"memory": 100 << 20, "bandwidth": 10**10}
    with pytest.raises(MemoryBudgetError, match="rank 1 does not fit d1"):
        balance(MODEL, nodes({"bandwidth": 10**10}, small), "int8")


def test_a_graphics_card_is_no_rank():
    with pytest.raises(UsageError, match="rtx4080 is a graphics card"):
        nodes_of([profiles.profile("rtx4080")])


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "fast.toml", tmp_path / "slow.toml"]
    for path, rate in zip(paths, (20, 10), strict=True):
        path.write_text(text(path.stem, bandwidth=rate * 10**9))
    return ",".join(map(str, paths))


def test_split_by_devices(tmp_path, files, capsys):
    pytest.importorskip("tokenizers")
    tiny_model(tmp_path / "model")
    arguments = ["cluster", "split", str(tmp_path / "model"), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--devices", files, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ratio"] == pytest.approx([2 / 3, 1 / 3])
    assert [row["heads"] for row in said["ranks"]] == [4, 2]
    assert [row["device"] for row in said["ranks"]] == ["fast", "slow"]
    assert said["ranks"][0]["why"] == "memory bandwidth 20 GB/s, stated"
    assert main([*arguments, "--devices", files]) == 0
    assert "memory bandwidth 20 GB/s, stated" in capsys.readouterr().out
    assert main([*arguments, "--nodes", "2"]) == 0
    assert "equal parts; --devices" in capsys.readouterr().err
    for wrong in (["--nodes", "3"], ["--ratio", "2:1"]):
        assert main([*arguments, "--devices", files, *wrong]) == 2
    assert main([*arguments, "--devices", "no-such"]) == 2


def test_plan_by_devices(files, capsys):
    arguments = ["cluster", "plan", "--model", "llama-2-7b", "--devices", files, "--json"]
    assert main(arguments) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["nodes"] == 2
    assert said["ratio"] == pytest.approx([2 / 3, 1 / 3])
    assert said["devices"][1]["bandwidth"] == 1e10
    assert said["streamed_bytes"] == [0, 0]
    assert main([*arguments, "--memory", "2GB,16GB", "--ratio", "auto"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ratio"][0] < 0.3
    assert said["peak_bytes"][0] <= 2 * 10**9
