"""Every benchmark one after the other, and what came out in a few lines.

Run: ``make bench``. Each script prints its figures and, as its last line, its verdict; those
lines are repeated at the end together with how busy the machine was. The exit code is the
number of limits that were missed.
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
MODEL = "cpubone-b0"


def load() -> float:
    return os.getloadavg()[0]


def export_bundle(folder: Path) -> Path:
    """The bundle that the benchmarks run: all runtimes that run here, nothing remembered."""
    from edgekit.export import export

    out = folder / MODEL
    print(f"exporting {MODEL} to onnx, openvino and executorch", flush=True)
    export(MODEL, ["onnx", "openvino", "executorch"], out, report=False).raise_for_status()
    return out


def run(script: str, *arguments: str) -> tuple[int, str]:
    """A benchmark's exit code and last line; what it prints is shown as it comes."""
    print(f"\n== {script} (load {load():.2f})", flush=True)
    process = subprocess.Popen(
        [sys.executable, HERE / script, *arguments], stdout=subprocess.PIPE, text=True
    )
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    return process.wait(), last


def main() -> int:
    cores, before = os.cpu_count() or 1, load()
    print(
        f"{platform.machine()}, {cores} cores, load {before:.2f}, Python {sys.version.split()[0]}"
    )
    with tempfile.TemporaryDirectory() as folder:
        bundle = str(export_bundle(Path(folder)))
        results = [
            run("bench_help.py"),
            run("bench_session_overhead.py", bundle),
            run("bench_export.py"),
            run("bench_latency.py", bundle),
            run("bench_speedup.py", "40", bundle),
            run("bench_families.py"),
            run("bench_dart.py"),
            run("bench_dsvt.py"),
            run("bench_moshi.py"),
            run("bench_physioser.py"),
            run("bench_demo.py"),
        ]
    after = load()
    print(f"\n== summary (load {before:.2f} before, {after:.2f} after, {cores} cores)")
    if before > cores:
        print("warning: other programs ran before this began: the times are unreliable")
    for code, line in results:
        print(f"{'ok  ' if code == 0 else 'MISS'}  {line}")
    return sum(code != 0 for code, _ in results)


if __name__ == "__main__":
    sys.exit(main())
