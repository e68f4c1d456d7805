"""Budgets are kept or refused; streamed weights give the same logits as those that stay."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from edgekit.devices.cluster.collective import Alone
from edgekit.devices.cluster.engine import Engine
from edgekit.devices.cluster.memory import MemoryPlan, parse_size, place
from edgekit.devices.cluster.scheduler import Window
from edgekit.devices.cluster.shard import PAGE, Block, read_shard
from edgekit.devices.cluster.split import split
from edgekit.errors import DeviceError, MemoryBudgetError, UsageError

from .helpers import on_all, save_model

IDS = list(range(40, 80))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    save_model(folder / "model", "llama", num_hidden_layers=4)
    return {n: list(split(folder / "model", folder / f"{n}", [1] * n)) for n in (1, 2)}


def walk(engine: Engine) -> np.ndarray:
    rows = [engine.prefill(IDS[:30]).copy()]
    rows += [engine.decode(token).copy() for token in IDS[30:]]
    return np.stack(rows)


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("direct", [True, False])
def test_a_window_changes_nothing(parts, nodes, direct):
    whole = on_all(parts[nodes], walk, context=64)
    smallest = max(2 * max(b.bytes for b in read_shard(one).blocks) for one in parts[nodes])
    budget = smallest + 2 * PAGE
    seen = {}

    def use(engine: Engine) -> np.ndarray:
        seen["plan"] = engine.plan
        return walk(engine)

    found = on_all(parts[nodes], use, context=64, weights_budget=budget, direct=direct)
    assert np.array_equal(found, whole)
    plan: MemoryPlan = seen["plan"]
    assert plan.arena + plan.kept <= budget
    assert plan.streamed > plan.kept


def test_a_budget_bounds_the_whole_plan(parts, monkeypatch):
    # The process of the tests is large, and grows by more than this model has.
    monkeypatch.setattr("edgekit.devices.cluster.engine.process_bytes", lambda: 50 << 20)
    with Engine.open(parts[1][0], 0, Alone(), context=64) as engine:
        everything = engine.plan
    budget = everything.total - everything.kept // 2
    with Engine.open(parts[1][0], 0, Alone(), memory_budget=budget, context=64) as engine:
        assert engine.plan.total <= budget
        assert engine.plan.streamed > 0


def test_what_does_not_fit_is_refused_before_it_starts(parts):
    threads = threading.active_count()
    with pytest.raises(MemoryBudgetError, match=r"two slots .* Next: --memory-budget") as refused:
        Engine.open(parts[1][0], 0, Alone(), memory_budget=1 << 20, context=64)
    assert refused.value.exit_code == 10
    assert str(refused.value).count("\n") == 0
    assert threading.active_count() == threads
    with pytest.raises(MemoryBudgetError, match="weights budget"):
        Engine.open(parts[1][0], 0, Alone(), weights_budget=PAGE, context=64)


def test_another_ranks_shard_is_refused(parts):
    with pytest.raises(UsageError, match="rank 1 of 2"):
        Engine.open(parts[2][1], 0, Alone())


def test_a_step_that_was_broken_off_is_forgotten(parts):
    whole = on_all(parts[1], walk, context=64)
    budget = 2 * max(block.bytes for block in read_shard(parts[1][0]).blocks) + PAGE
    with Engine.open(parts[1][0], 0, Alone(), context=64, weights_budget=budget) as engine:
        engine.prefill(IDS[:5])
        kernel, calls = engine._kernel, itertools.count()

        class Breaks:
            name = "breaks"

            def attention(self, *arguments):
                if next(calls) == 2:
                    raise InterruptedError
                kernel.attention(*arguments)

            feed_forward, head, close = kernel.feed_forward, kernel.head, kernel.close

        engine._kernel = Breaks()
        with pytest.raises(InterruptedError):
            engine.decode(3)
        engine._kernel = kernel
        engine.reset()
        assert np.array_equal(walk(engine), whole)


def blocks_of(sizes: list[int]) -> list[Block]:
    offsets = itertools.accumulate([0, *sizes[:-1]])
    return [
        Block("attention", i, at, size)
        for i, (at, size) in enumerate(zip(offsets, sizes, strict=True))
    ]


@pytest.mark.parametrize("seed", range(5))
def test_every_block_arrives_whole_in_a_small_ring(tmp_path, seed):
    random = np.random.default_rng(seed)
    sizes = [int(n) * PAGE for n in random.integers(1, 9, 12)]
    data = random.integers(0, 256, sum(sizes), np.uint8)
    (tmp_path / "weights.bin").write_bytes(data.tobytes())
    blocks = blocks_of(sizes)
    kept = {int(i) for i in random.choice(12, 4, replace=False)}
    window = Window(tmp_path / "weights.bin", blocks, kept, 2 * max(sizes))
    try:
        for _ in range(20):
            window.begin()
            for index, block in enumerate(blocks):
                address = window.take(index)
                found = np.ctypeslib.as_array(
                    (np.ctypeslib.ctypes.c_uint8 * block.bytes).from_address(address)
                )
                assert np.array_equal(found, data[block.offset :][: block.bytes])
                window.release(index)
    finally:
        window.close()


def test_a_disk_that_fails_is_told(tmp_path):
    sizes = [4 * PAGE] * 4
    (tmp_path / "weights.bin").write_bytes(bytes(8 * PAGE))  # half of what there should be
    window = Window(tmp_path / "weights.bin", blocks_of(sizes), (), 2 * 4 * PAGE)
    try:
        window.begin()
        for index in range(2):
            window.take(index)
            window.release(index)
        with pytest.raises(DeviceError, match="cannot read the weights"):
            window.take(2)
    finally:
        window.close()


def test_blocks_that_stay_are_spread():
    arena, kept = place(blocks_of([PAGE] * 100), 53 * PAGE)
    assert arena == 3 * PAGE
    assert len(kept) == 50
    gaps = np.diff(kept)
    assert gaps.max() <= 3


@pytest.mark.parametrize(
    ("text", "count"), [("256MiB", 256 << 20), ("3GB", 3 * 10**9), ("4k", 4000)]
)
def test_sizes(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "x", "-3MB", "3QB"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError):
        parse_size(text)
