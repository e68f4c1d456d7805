"""What ``edgekit export cpubone-b0 --target onnx`` costs over the bare calls underneath.

Run: ``python tests/bench/bench_export.py [PAIRS]``. Whole processes, from the interpreter's
start to its end, in turns: the command as a user types it; the same without the report and
its timings; and a script that builds the same network, calls ``torch.onnx.export``, loads
the file in ONNX Runtime, runs it once and compares. Wall and CPU time (of the process and
its children); the median of the pairs' ratios counts.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 2.0
MODEL = "cpubone-b0"

BARE = """
import sys
import numpy as np, onnxruntime, torch
from edgekit.models import build

network = build(sys.argv[1])
image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
torch.onnx.export(network, (image,), sys.argv[2], dynamo=True, external_data=False, verbose=False)
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
(logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
with torch.no_grad():
    np.testing.assert_allclose(logits, network(image).numpy(), atol=1e-3)
"""

COMMAND = "import sys; from edgekit.cli import main; sys.exit(main())"
EXPORT = [sys.executable, "-c", COMMAND, "export", MODEL, "--target", "onnx", "-q", "-o"]


def commands(folder: Path) -> dict[str, list[str]]:
    """What is timed: name -> a command that writes into ``folder``."""
    return {
        "bare torch.onnx.export + ORT": [sys.executable, "-c", BARE, MODEL, f"{folder}/b.onnx"],
        "edgekit export": [*EXPORT, f"{folder}/bundle"],
        "edgekit export --no-report": [*EXPORT, f"{folder}/plain", "--no-report"],
    }


def timed(name: str) -> tuple[float, float]:
    """Wall and CPU seconds of one run, in a fresh folder and with nothing remembered."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "EDGEKIT_HOME": f"{folder}/home"}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run(
            commands(Path(folder))[name],
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main(pairs: int = 3) -> int:
    names = list(commands(Path()))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for i in range(pairs):
        order = names if i % 2 == 0 else names[::-1]
        for name in order:
            times[name].append(timed(name))
    bare, ours, _ = names
    for name, runs in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        walls, cpus = (
            statistics.median(
                run[i] / other[i] for run, other in zip(runs, times[bare], strict=True)
            )
            for i in (0, 1)
        )
        print(
            f"{name:29s} {wall:6.1f} s wall ({walls:.2f}x)  {cpu:6.1f} s CPU ({cpus:.2f}x)",
            flush=True,
        )
    ratio = statistics.median(
        run[0] / other[0] for run, other in zip(times[ours], times[bare], strict=True)
    )
    verdict = "within" if ratio <= LIMIT else "OVER"
    print(f"edgekit export {MODEL} --target onnx: {ratio:.2f}x the bare calls, {verdict} {LIMIT}x")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
