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

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from contenders import BARE, THREADS, Contender, plain_onnx, race, stop_all

MODEL = "cpubone-b0"
PLAIN = "bare onnxruntime"
LIMITS = {"fp32": 1.1, "bf16": 1.7}
TARGETS = {"fp32": ["onnx", "openvino", "executorch"], "bf16": ["openvino"]}


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


def contenders(folder: Path, bundle: str | None) -> dict[str, tuple[str, str]]:
    """Row name -> its engine, and what that loads; the baseline first."""
    from edgekit.models import build

    found = {PLAIN: (BARE, plain_onnx(build(MODEL), folder / "bare.onnx"))}
    for precision in ("fp32", *(["bf16"] if has_bf16() else [])):
        given = bundle if precision == "fp32" else None
        found[precision] = ("auto", given or export(precision, folder))
        save_measurements(found[precision][1])
    return found


def show(rows: list[Contender]) -> dict[tuple[str, int], float]:
    """Print every row; by how much it is faster than the baseline, by name and threads."""
    bare = {row.threads: row for row in rows if row.name == PLAIN}
    print(f"{MODEL}: {'':16s} runs on {'':12s} threads     min      p50   speed-up")
    found = {}
    for row in rows:
        ratios = bare[row.threads].slower_than(row)
        speed = found[row.name, row.threads] = float(np.median(ratios))
        name = row.name if row.name == PLAIN else f"edgekit auto, {row.name}"
        low, high = np.percentile(ratios, (25, 75))
        print(
            f"{name:24s}  {row.runs_on:24s} {row.threads:3d} {row.times.min():7.2f}  "
            f"{row.p50:7.2f} ms  {speed:.2f}x  (half of the rounds {low:.2f}-{high:.2f})"
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
    rows: list[Contender] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGEKIT_HOME"] = f"{folder}/home"  # the user's own figures stay as they are
        try:
            for name, (engine, path) in contenders(Path(folder), bundle).items():
                rows += [Contender.start(name, engine, path, threads) for threads in THREADS]
            race(rows, rounds)
        finally:
            stop_all(rows)
    return verdict(show(rows))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2]), *sys.argv[2:3]))
