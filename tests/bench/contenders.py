"""Engines in processes of their own, timed in turns: what the benchmarks of latency share.

``python tests/bench/contenders.py ENGINE PATH THREADS`` is such a process. ENGINE is a
runtime of edgekit or ``auto``, which runs the bundle at PATH, or ``bare``: ONNX Runtime as
its documentation shows it, on the ONNX file at PATH. It answers each line ``SETTLE SAMPLES``
with what it runs on and as many times in milliseconds.
"""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

BURST, SETTLE, WARM_UP = 5, 2, 10
THREADS = (1, 2)
RUNTIMES = ("onnxruntime", "openvino", "executorch")
BARE = "bare"


@dataclass(eq=False)
class Contender:
    """One engine with one number of threads, and its times by burst in milliseconds."""

    name: str
    threads: int
    process: subprocess.Popen
    runs_on: str = ""
    bursts: list[list[float]] = field(default_factory=list)

    @classmethod
    def start(
        cls, name: str, engine: str, path: str, threads: int, warm_up: int = WARM_UP
    ) -> "Contender":
        process = subprocess.Popen(
            [sys.executable, __file__, engine, path, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        contender = cls(name, threads, process)
        contender.runs_on = contender.ask(warm_up, 1)["runs_on"]
        return contender

    def ask(self, settle: int, samples: int) -> dict:
        self.process.stdin.write(f"{settle} {samples}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} with {self.threads} threads died")
        return json.loads(line)

    @property
    def times(self) -> np.ndarray:
        return np.concatenate(self.bursts)

    @property
    def p50(self) -> float:
        return float(np.median(self.times))

    def slower_than(self, other: "Contender") -> np.ndarray:
        """How many times slower, by round: the ratios of the bursts' medians."""
        ours, theirs = (np.array([np.median(b) for b in row.bursts]) for row in (self, other))
        return ours / theirs

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def race(rows: list[Contender], rounds: int, burst: int = BURST, settle: int = SETTLE) -> None:
    """Each runs a burst in every round; each round begins with another one."""
    order = list(rows)
    for _ in range(rounds):
        for row in order:
            row.bursts.append(row.ask(settle, burst)["times"])
        order = order[1:] + order[:1]


def stop_all(rows: Iterable[Contender]) -> None:
    for row in rows:
        row.stop()


def plain_onnx(network: object, path: Path, shape: tuple[int, ...] = (1, 3, 224, 224)) -> str:
    """What PyTorch's own exporter makes of a network, and nothing else."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about torch itself
        torch.onnx.export(
            network, (torch.zeros(shape),), path, dynamo=True, external_data=False, verbose=False
        )
    return str(path)


def engine_of(engine: str, path: str, threads: int) -> tuple[str, Callable[[], object]]:
    """What it runs on, and one run of it on random input."""
    random = np.random.default_rng(0)
    if engine != BARE:
        from edgekit.runtimes import load

        session = load(path, engine, threads=threads)
        (spec,) = session.inputs
        feed = {spec.name: random.standard_normal(spec.shape).astype(np.float32)}
        runs_on = f"{session.runtime}, {session.effective_precision}"
        return runs_on, lambda: session.run(feed)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    bare = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (argument,) = bare.get_inputs()
    feed = {argument.name: random.standard_normal(argument.shape).astype(np.float32)}
    return "onnxruntime, fp32", lambda: bare.run(None, feed)


def serve(engine: str, path: str, threads: int) -> None:
    runs_on, call = engine_of(engine, path, threads)
    for line in sys.stdin:
        settle, samples = map(int, line.split())
        for _ in range(settle):
            call()
        times = []
        for _ in range(samples):
            before = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - before) / 1e6)
        print(json.dumps({"runs_on": runs_on, "times": times}), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
