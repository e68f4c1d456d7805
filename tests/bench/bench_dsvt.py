"""DSVT from points to boxes, end to end and part by part, beside eager PyTorch.

Run: ``python tests/bench/bench_dsvt.py [VARIANT] [ROUNDS]``, with EDGEKIT_DATA at the folder of
golden and real data. Two sweeps: one KITTI frame (the front alone) and the golden one (all
around). Eager is the official formulation (dsvt_reference.py) in the same run, on two threads
like the others; every row of a round runs once before the next round begins. The golden
weights are used, so that boxes mean something to compare: how many of fp32's best 100 boxes
another precision has within 0.3 m, with the class. Limits: fp32 at most 0.33x of eager, bf16
at most 0.2x.
"""

import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "models")]
import dsvt_golden  # noqa: E402
import dsvt_reference  # noqa: E402
from dsvt_parts import Parts, chain, follow, session  # noqa: E402

from edgekit.manifest import TaskInfo  # noqa: E402
from edgekit.models import spec  # noqa: E402
from edgekit.models.dsvt import build  # noqa: E402
from edgekit.runtimes.partition import network_inputs, voxelise  # noqa: E402
from edgekit.runtimes.point_clouds import read_points  # noqa: E402
from edgekit.runtimes.tasks.lidar_detection import LidarDetection, with_columns  # noqa: E402

DATA = Path(os.environ.get("EDGEKIT_DATA", HERE.parents[2] / "shared"))
ENGINES = (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
LIMITS = {"fp32": 0.33, "bf16": 0.2}
PARTS = (*dsvt_reference.PARTS, "boxes")
GRAPHS = {"features": "voxel features", "attention": "attention", "bev": "bev", "head": "head"}
THREADS = 2


class Draft:
    """What the task needs of a bundle and a session, to decode with."""

    path, runtime = "bench", "bench"

    def __init__(self, name: str, head: object) -> None:
        entry = spec(f"dsvt-{name}")
        params = {key: value for key, value in entry.task.params.items() if key != "labels"}
        self.manifest = type(
            "Manifest", (), {"task": TaskInfo(kind=entry.task.kind, params=params)}
        )
        self.inputs = entry.graphs[0].inputs
        self.outputs = tuple(type("Spec", (), {"name": name}) for name in head.outputs)
        self.dynamic: dict = {}


class Laps:
    """Milliseconds by row and part; the least of all rounds counts."""

    def __init__(self) -> None:
        self.times = defaultdict(lambda: defaultdict(list))

    def start(self, row: str):
        before = time.perf_counter()

        def lap(part: str) -> None:
            nonlocal before
            now = time.perf_counter()
            self.times[row][part].append((now - before) * 1e3)
            before = time.perf_counter()

        return lap

    def least(self, row: str) -> dict[str, float]:
        return {part: min(values) for part, values in self.times[row].items()}


def eager(network, task, points, lap):
    with torch.inference_mode():
        answer = dsvt_reference.run(network, torch.from_numpy(points), lap)
    found = task.finish(
        dict(zip(network.dense_head.outputs, map(torch.Tensor.numpy, answer), strict=True))
    )
    lap("boxes")
    return found


def deployed(parts, sessions, task, points, lap):
    """The graph as it is deployed, end to end; then its parts as graphs of their own.

    Parts cost more than the graph they are cut from: what passes between them is copied.
    """
    values = network_inputs(points, voxelise(points, task.layout), task.layout)
    lap("partition")
    outputs = run_part(parts, sessions, "split", values)
    lap("graph")
    named = dict(zip(parts.network.dense_head.outputs, outputs, strict=True))
    found = task.finish(named)
    lap("boxes")
    for part, name in GRAPHS.items():
        values |= follow(part, run_part(parts, sessions, part, values))
        lap(name)
    return found


def run_part(parts, sessions, part, values):
    given = (values[name] for name in parts.given[part])
    named = {spec.name: value for spec, value in zip(sessions[part].inputs, given, strict=True)}
    return list(sessions[part].run(named).values())


def agreement(found, wanted, count: int = 100) -> float:
    """The share of the best boxes of ``wanted`` that ``found`` has within 0.3 m."""
    best = wanted.detections[:count]
    places = np.array([one.box[:3] for one in found.detections]).reshape(-1, 3)
    classes = np.array([one.index for one in found.detections])
    hits = [
        bool(((np.abs(places - one.box[:3]).max(1) < 0.3) & (classes == one.index)).any())
        for one in best
    ]
    return float(np.mean(hits)) if hits else 1.0


def show(sweep: str, laps: Laps, rows, shares) -> dict[str, float]:
    totals = {}
    for row in rows:
        least = laps.least(row)
        parts = PARTS if row == "eager" else ("partition", "graph", "boxes")
        totals[row] = sum(least[part] for part in parts)
    head = "".join(f"{part:>16s}" for part in PARTS)
    print(f"\n{sweep:26s}{head}   end to end  / eager  boxes")
    for row in rows:
        least = laps.least(row)
        cells = "".join(f"{least[part]:13.0f} ms" for part in PARTS)
        ratio = totals[row] / totals["eager"]
        print(f"{row:26s}{cells}  {totals[row]:8.0f} ms  {ratio:5.2f}x  {100 * shares[row]:4.0f} %")
    return {row: totals[row] / totals["eager"] for row in rows}


def measure(network, parts, engines, task, points, rounds):
    laps, answers = Laps(), {}
    for _ in range(rounds):
        answers["eager"] = eager(network, task, points, laps.start("eager"))
        for row, sessions in engines.items():
            answers[row] = deployed(parts, sessions, task, points, laps.start(row))
    shares = {row: agreement(found, answers["eager"]) for row, found in answers.items()}
    return laps, shares


def main(variant: str = "waymo-pillar", rounds: int = 3) -> int:
    torch.set_num_threads(THREADS)
    network = dsvt_golden.fill(build(variant))
    parts, task = (
        Parts(network).eval(),
        LidarDetection(draft := Draft(variant, network.dense_head), draft),
    )
    sweeps = {
        "KITTI frame": with_columns(read_points(DATA / "data/lidar/kitti_000008.bin"), task.params),
        "golden sweep": dsvt_golden.sweep(DATA / "golden/dsvt"),
    }
    example = sweeps["golden sweep"]
    given = chain(parts, network_inputs(example, voxelise(example, task.layout), task.layout))
    missed, words = 0, []
    with tempfile.TemporaryDirectory() as folder:
        engines = {
            f"{target} {precision}": {
                part: session(parts, part, given[part], target, precision, Path(folder), THREADS)
                for part in (*GRAPHS, "split")
            }
            for target, precision in ENGINES
        }
        for sweep, points in sweeps.items():
            laps, shares = measure(network, parts, engines, task, points, rounds)
            ratios = show(sweep, laps, ["eager", *engines], shares)
            for precision, limit in LIMITS.items():
                best = min(ratio for row, ratio in ratios.items() if row.endswith(precision))
                missed += best > limit
                words.append(f"{precision} {best:.2f}x (limit {limit})")
    print(f"dsvt-{variant}, of eager on the KITTI frame and the golden sweep: {', '.join(words)}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2], *map(int, sys.argv[2:])))
