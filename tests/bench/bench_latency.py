"""CPUBone-B0 on every runtime that runs here, beside bare ONNX Runtime and MobileNetV3.

Run: ``python tests/bench/bench_latency.py BUNDLE [SAMPLES]``; BUNDLE is an export of
``cpubone-b0`` to ``onnx``, ``openvino`` and ``executorch``. On 1 and 2 threads each: an
edgekit session per runtime; ONNX Runtime without edgekit on what ``torch.onnx.export`` makes
of the same network; and the same for timm's ``mobilenetv3_large_100``. Random input, the
engine's run alone. Each row has a process of its own, and the rows are measured in turns.
"""

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

BURST, SETTLE, WARM_UP = 5, 2, 10
THREADS = (1, 2)
RUNTIMES = ("onnxruntime", "openvino", "executorch")
BARE, TIMM = "bare onnxruntime", "bare, mobilenetv3_large_100"
SHAPE = (1, 3, 224, 224)


@dataclass(eq=False)
class Row:
    """One engine with one number of threads, in a process of its own."""

    name: str
    threads: int
    process: subprocess.Popen
    times: list[float] = field(default_factory=list)

    def turn(self, samples: int, settle: int = SETTLE) -> list[float]:
        self.process.stdin.write(f"{settle} {samples}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def start(name: str, path: str, threads: int) -> Row:
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", name, path, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    row = Row(name, threads, process)
    row.turn(1, WARM_UP)
    return row


def engine(name: str, path: str, threads: int) -> Callable[[], object]:
    """One run of what a row measures."""
    image = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    if name in RUNTIMES:
        from edgekit.runtimes import load

        session = load(path, name, threads=threads)
        return lambda: session.run({"image": image})
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    bare = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {bare.get_inputs()[0].name: image}
    return lambda: bare.run(None, feed)


def serve(name: str, path: str, threads: int) -> None:
    """Answer each line ``SETTLE SAMPLES`` with that many times in milliseconds."""
    call = engine(name, path, threads)
    for line in sys.stdin:
        settle, samples = map(int, line.split())
        for _ in range(settle):
            call()
        times = []
        for _ in range(samples):
            before = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - before) / 1e6)
        print(json.dumps(times), flush=True)


def plain_onnx(network: object, path: Path) -> str:
    """What PyTorch's own exporter makes of a network, and nothing else."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about torch itself
        torch.onnx.export(
            network, (torch.zeros(SHAPE),), path, dynamo=True, external_data=False, verbose=False
        )
    return str(path)


def competitors(bundle: str, folder: Path) -> dict[str, str]:
    """Row name -> what it loads."""
    from edgekit.models import build
    from edgekit.models.sources import load_model

    return {
        **dict.fromkeys(RUNTIMES, bundle),
        BARE: plain_onnx(build("cpubone-b0"), folder / "cpubone.onnx"),
        TIMM: plain_onnx(
            load_model("timm:mobilenetv3_large_100").module, folder / "mobilenetv3.onnx"
        ),
    }


def measure(rows: list[Row], samples: int) -> None:
    """In turns, each round beginning with another row."""
    order = list(rows)
    for done in range(0, samples, BURST):
        for row in order:
            row.times += row.turn(min(BURST, samples - done))
        order = order[1:] + order[:1]


def show(rows: list[Row]) -> None:
    reference = {row.threads: np.median(row.times) for row in rows if row.name == BARE}
    print(f"{'cpubone-b0 on':28s} threads     min      p50   / bare onnxruntime")
    for row in rows:
        p50 = np.median(row.times)
        ratio = p50 / reference[row.threads]
        print(f"{row.name:28s} {row.threads:7d} {min(row.times):7.2f}  {p50:7.2f} ms  {ratio:.2f}x")


def main(bundle: str, samples: int = 60) -> int:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, path in competitors(bundle, Path(folder)).items():
                rows += [start(name, path, threads) for threads in THREADS]
            measure(rows, samples)
        finally:
            for row in rows:
                row.process.kill()
                row.process.wait()
    show(rows)
    medians = {(row.name, row.threads): np.median(row.times) for row in rows}
    figures = "; ".join(f"{name} {medians[name, 1]:.1f}" for name in (*RUNTIMES, BARE, TIMM))
    print(f"cpubone-b0, one thread, p50 in ms: {figures}")
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        sys.exit(0)
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
