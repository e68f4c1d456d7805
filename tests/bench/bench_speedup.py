"""CPUBone-B0 as ``auto`` runs it after ``bench --save``, beside ONNX Runtime by default.

Run: ``python tests/bench/bench_speedup.py [ROUNDS [BUNDLE]]``; BUNDLE is an export of
``cpubone-b0`` to the runtimes to choose from, else one is made. The baseline is an
``onnxruntime.InferenceSession`` as its documentation shows it, but for the number of threads,
on what ``torch.onnx.export`` makes of the same network. Against it, with as many threads:
the fp32 bundle, and one with ``--precision bf16`` where the processor has it. Each row has a
process of its own; in every round each runs a burst, and the round's ratio is of the medians
of two bursts. The median of those ratios counts. Random input, the engine's run alone. That
bf16 answers as fp32 does is another question: see ``edgekit export --eval``.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from bench_latency import SHAPE, plain_onnx

BURST, SETTLE, WARM_UP = 5, 2, 10
THREADS = (1, 2)
MODEL = "cpubone-b0"
BARE = "bare onnxruntime"
LIMITS = {"fp32": 1.1, "bf16": 1.7}
TARGETS = {"fp32": ["onnx", "openvino", "executorch"], "bf16": ["openvino"]}


@dataclass(eq=False)
class Row:
    """One contender with one number of threads, in a process of its own."""

    name: str
    threads: int
    process: subprocess.Popen
    runtime: str = ""
    bursts: list[list[float]] = field(default_factory=list)

    def ask(self, settle: int, samples: int) -> dict:
        self.process.stdin.write(f"{settle} {samples}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def medians(self) -> np.ndarray:
        """The median of each burst, in milliseconds."""
        return np.array([np.median(burst) for burst in self.bursts])


def start(name: str, path: str, threads: int) -> Row:
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", name, path, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    row = Row(name, threads, process)
    row.runtime = row.ask(WARM_UP, 1)["runtime"]
    return row


def engine(name: str, path: str, threads: int) -> tuple[str, Callable[[], object]]:
    """What a row runs on, and one run of it."""
    image = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    if name != BARE:
        from edgekit.runtimes import load

        session = load(path, threads=threads)
        feed = {session.inputs[0].name: image}
        return f"{session.runtime}, {session.effective_precision}", lambda: session.run(feed)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    bare = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {bare.get_inputs()[0].name: image}
    return "onnxruntime, fp32", lambda: bare.run(None, feed)


def serve(name: str, path: str, threads: int) -> None:
    """Answer each line ``SETTLE SAMPLES`` with that many times in milliseconds."""
    runtime, call = engine(name, path, threads)
    for line in sys.stdin:
        settle, samples = map(int, line.split())
        for _ in range(settle):
            call()
        times = []
        for _ in range(samples):
            before = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - before) / 1e6)
        print(json.dumps({"runtime": runtime, "times": times}), flush=True)


def has_bf16() -> bool:
    """Whether the processor multiplies in bf16 (x86; OpenVINO would emulate it elsewhere)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def export(precision: str, folder: Path) -> str:
    from edgekit.export import export as export_model

    out = folder / precision
    result = export_model(MODEL, TARGETS[precision], out, precision=precision, report=False)
    result.raise_for_status()
    return str(out)


def save_measurements(bundle: str) -> None:
    """What ``auto`` goes by: a user types this once."""
    command = ["bench", bundle, "--save", "-q", *(f"-t{threads}" for threads in THREADS)]
    run = "import sys; from edgekit.cli import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", run, *command], check=True, stdout=subprocess.DEVNULL)


def contenders(folder: Path, bundle: str | None) -> dict[str, str]:
    """Row name -> what it loads; the baseline first."""
    from edgekit.models import build

    found = {BARE: plain_onnx(build(MODEL), folder / "bare.onnx")}
    for precision in ("fp32", *(["bf16"] if has_bf16() else [])):
        given = bundle if precision == "fp32" else None
        found[precision] = given or export(precision, folder)
        save_measurements(found[precision])
    return found


def measure(rows: list[Row], rounds: int) -> None:
    """In turns, each round beginning with another row."""
    order = list(rows)
    for _ in range(rounds):
        for row in order:
            row.bursts.append(row.ask(SETTLE, BURST)["times"])
        order = order[1:] + order[:1]


def show(rows: list[Row]) -> dict[tuple[str, int], float]:
    """Print every row; by how much it is faster than the baseline, by name and threads."""
    bare = {row.threads: row.medians() for row in rows if row.name == BARE}
    print(f"{MODEL:22s}  {'runs on':20s} threads     min      p50     speed-up")
    found = {}
    for row in rows:
        ratios = bare[row.threads] / row.medians()
        speed = found[row.name, row.threads] = float(np.median(ratios))
        times = np.concatenate(row.bursts)
        name = row.name if row.name == BARE else f"edgekit auto, {row.name}"
        low, high = np.percentile(ratios, (25, 75))
        print(
            f"{name:22s}  {row.runtime:20s} {row.threads:7d} {times.min():7.2f}  "
            f"{np.median(times):7.2f} ms  {speed:.2f}x  (half of the rounds {low:.2f}-{high:.2f})"
        )
    return found


def verdict(found: dict[tuple[str, int], float]) -> int:
    """Print the last line; 0 if every limit is kept."""
    words, missed = [], 0
    for precision, limit in LIMITS.items():
        if (precision, THREADS[0]) not in found:
            words.append(f"{precision} not measured (the processor has none)")
            continue
        speeds = [found[precision, threads] for threads in THREADS]
        missed += min(speeds) < limit
        each = " / ".join(f"{speed:.2f}" for speed in speeds)
        words.append(f"{precision} {each}x, {'UNDER' if min(speeds) < limit else 'over'} {limit}x")
    threads = " / ".join(map(str, THREADS))
    print(f"{MODEL}, auto beside bare ONNX Runtime on {threads} threads: {'; '.join(words)}")
    return min(missed, 1)


def main(rounds: int = 40, bundle: str | None = None) -> int:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGEKIT_HOME"] = f"{folder}/home"  # the user's own figures stay as they are
        try:
            for name, path in contenders(Path(folder), bundle).items():
                rows += [start(name, path, threads) for threads in THREADS]
            measure(rows, rounds)
        finally:
            for row in rows:
                row.process.kill()
                row.process.wait()
    return verdict(show(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        sys.exit(0)
    sys.exit(main(*map(int, sys.argv[1:2]), *sys.argv[2:3]))
