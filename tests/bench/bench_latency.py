"""CPUBone-B0 on every runtime that runs here, beside bare ONNX Runtime and MobileNetV3.

Run: ``python tests/bench/bench_latency.py BUNDLE [SAMPLES]``; BUNDLE is an export of
``cpubone-b0`` to ``onnx``, ``openvino`` and ``executorch``. On 1 and 2 threads each: an
edgekit session per runtime; ONNX Runtime without edgekit on what ``torch.onnx.export`` makes
of the same network; and the same for timm's ``mobilenetv3_large_100``. Random input, the
engine's run alone. Each row has a process of its own, and the rows are measured in turns.
"""

import sys
import tempfile
from pathlib import Path

from contenders import BARE, BURST, RUNTIMES, THREADS, Contender, plain_onnx, race, stop_all

PLAIN, TIMM = "bare onnxruntime", "bare, mobilenetv3_large_100"


def competitors(bundle: str, folder: Path) -> dict[str, tuple[str, str]]:
    """Row name -> its engine, and what that loads."""
    from edgekit.models import build
    from edgekit.models.sources import load_model

    mobilenet = load_model("timm:mobilenetv3_large_100").module
    return {
        **{name: (name, bundle) for name in RUNTIMES},
        PLAIN: (BARE, plain_onnx(build("cpubone-b0"), folder / "cpubone.onnx")),
        TIMM: (BARE, plain_onnx(mobilenet, folder / "mobilenetv3.onnx")),
    }


def show(rows: list[Contender]) -> None:
    reference = {row.threads: row.p50 for row in rows if row.name == PLAIN}
    print(f"{'cpubone-b0 on':28s} threads     min      p50   / bare onnxruntime")
    for row in rows:
        ratio = row.p50 / reference[row.threads]
        least = row.times.min()
        print(f"{row.name:28s} {row.threads:7d} {least:7.2f}  {row.p50:7.2f} ms  {ratio:.2f}x")


def main(bundle: str, samples: int = 60) -> int:
    rows: list[Contender] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, (engine, path) in competitors(bundle, Path(folder)).items():
                rows += [Contender.start(name, engine, path, threads) for threads in THREADS]
            race(rows, samples // BURST)
        finally:
            stop_all(rows)
    show(rows)
    medians = {(row.name, row.threads): row.p50 for row in rows}
    figures = "; ".join(f"{name} {medians[name, 1]:.1f}" for name in (*RUNTIMES, PLAIN, TIMM))
    print(f"cpubone-b0, one thread, p50 in ms: {figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
