"""The plan's token times beside measured ones, and beside published ones.

    python tests/bench/cluster_plan.py measured [WORK]   SmolLM2 here; takes minutes
    python tests/bench/cluster_plan.py published         TPI-LLM's own table; computes only

Measured: what a device can do is taken from other runs than those that are predicted: how fast
weights pass from a run of each precision with all of them in memory, the disk from reading a shard
block by block, the link from sums alone. Predicted are then budgets, two ranks, and links with
delays.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edgekit.devices.cluster.layout import language_of
from edgekit.devices.cluster.memory import place
from edgekit.devices.cluster.plan import Setup, predict
from edgekit.devices.cluster.scheduler import Window
from edgekit.devices.cluster.shard import WEIGHTS, Shard, read_shard
from edgekit.devices.cluster.simulate import Device, Link, Rank, simulate
from edgekit.devices.cluster.split import split
from tests.bench.cluster_memory import run_ranks
from tests.bench.cluster_parity import wheel_model

TOKENS, PROMPT = 24, 16
FP32_BYTES = 134_515_008 * 4
# Seconds a token as published in TPI-LLM's README: 8 wired devices, fp32 from disk.
PUBLISHED = {
    "open-llama-3b": 2,
    "llama-2-7b": 3,
    "llama-3.1-8b": 4,
    "llama-2-13b": 3,
    "yi-34b": 14,
}


def measure(folders: Sequence[Path], budget: int | None, delay: float) -> tuple[float, float]:
    """Seconds a token, the median of a run's, and seconds of one sum, taken before it."""
    options = {"context": 256, "threads": 1, "weights_budget": budget}
    reports = run_ranks(list(folders), None, TOKENS, PROMPT, delay, **options)
    return reports[0]["token_ms"] / 1e3, reports[0]["sum_seconds"]


def disk_rate(folder: Path) -> float:
    """Bytes a second of reading every block in turn, past the cache."""
    shard = read_shard(folder)
    largest = max(block.bytes for block in shard.blocks)
    window = Window(folder / WEIGHTS, shard.blocks, (), 3 * largest)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        window.begin()
        for index in range(len(shard.blocks)):
            window.take(index)
            window.release(index)
        rates.append(sum(block.bytes for block in shard.blocks) / (time.perf_counter() - start))
    window.close()
    return statistics.median(rates)


def ranks_of(shards: Sequence[Shard], budget: int | None, device: Device) -> list[Rank]:
    made = []
    for shard in shards:
        total = sum(block.bytes for block in shard.blocks)
        arena, kept = place(shard.blocks, total if budget is None else budget)
        made.append(Rank(shard.blocks, frozenset(kept), arena, device))
    return made


def fitted(shards: Sequence[Shard], seconds: float, device: Device) -> Device:
    """The device whose bandwidth gives a measured time with all weights in memory."""
    low, high = 1e8, 1e12
    for _ in range(60):
        middle = (low * high) ** 0.5
        tried = dataclasses.replace(device, bandwidth=middle)
        if simulate(ranks_of(shards, None, tried), Link(), 576).seconds > seconds:
            low = middle
        else:
            high = middle
    return dataclasses.replace(device, bandwidth=low)


def parts_of(out: Path, nodes: int, precision: str) -> list[Path]:
    """A split that is there, or is made."""
    if not out.exists():
        split(wheel_model(), out, [1] * nodes, precision)
    return [out / f"rank-{rank}" for rank in range(nodes)]


def measured(folder: Path) -> None:
    off = []
    for precision in ("int8", "int4", "bf16", "fp32"):
        parts = {
            nodes: parts_of(folder / f"{precision}-{nodes}", nodes, precision) for nodes in (1, 2)
        }
        shards = {nodes: [read_shard(one) for one in parts[nodes]] for nodes in parts}
        device = Device(disk_rate(parts[1][0]), 1e10)
        runs = {nodes: measure(parts[nodes], None, 0.0) for nodes in parts}
        known = {nodes: fitted(shards[nodes], runs[nodes][0], device) for nodes in parts}
        whole = sum(block.bytes for block in shards[1][0].blocks)
        cases = [(1, whole // 2, 0.0), (1, whole // 4, 0.0), (2, None, 1e-3), (2, None, 5e-3)]
        cases.append((2, sum(b.bytes for b in shards[2][1].blocks) // 2, 1e-3))
        for nodes, budget, delay in cases:
            ranks = ranks_of(shards[nodes], budget, known[nodes])
            real, link = measure(parts[nodes], budget, delay)
            # What a sum takes more than one without delay, whose cost is in the fit already.
            found = simulate(ranks, Link(max(0.0, link - runs[nodes][1])), 576).seconds
            off.append(found / real - 1)
            room = "all" if budget is None else f"{budget >> 20} MiB"
            print(
                f"{precision} {nodes} ranks, {room}, {delay * 1e3:.0f} ms: predicted"
                f" {found * 1e3:.1f} ms, measured {real * 1e3:.1f} ms, {off[-1]:+.0%}",
                flush=True,
            )
    within = sum(abs(one) <= 0.25 for one in off)
    print(f"{within} of {len(off)} within 25 %")


def published() -> None:
    """Eight devices with 1 GiB and four blocks each, fp32, disks of 1 GB/s (an assumption)."""
    for name, seconds in PUBLISHED.items():
        language = language_of(name)
        disk = 1.0e9
        setup = Setup(
            language,
            "fp32",
            (1.0,) * 8,
            (10**12,) * 8,
            (Device(disk, 15e9),) * 8,
            Link(1e-3, 125e6),
            context=64,
        )
        least = 4 * max(1, language.parameters * 4 // 8 // language.layers) + (1 << 30)
        setup = dataclasses.replace(setup, memories=(least,) * 8)
        found = predict(setup)
        print(
            f"{name}: predicted {found.token.seconds:.2g} s, published {seconds} s"
            f" (bound by {found.bound_by})"
        )


if __name__ == "__main__":
    if sys.argv[1] == "published":
        published()
    else:
        with tempfile.TemporaryDirectory() as temporary:
            measured(Path(sys.argv[2] if len(sys.argv) > 2 else temporary))
