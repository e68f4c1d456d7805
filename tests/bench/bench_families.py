"""Every CPUBone and LowFormer up to B2 on every runtime, beside the papers and three of timm.

Run: ``python tests/bench/bench_families.py [NAME…]``; without names, all of them. On 1 and 2
threads each: an edgekit session per runtime, at 224x224, random weights (which do not change
the speed), the engine's run alone. The rows of one network are measured in turns with the
reference, timm's ``mobilenetv3_large_100`` on ONNX Runtime without edgekit, so the last figure
of a row is comparable between networks even where the machine was slower for some. What the
papers published for other devices stands beside it.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from contenders import BARE, RUNTIMES, THREADS, Contender, plain_onnx, race, stop_all

REFERENCE = "mobilenetv3_large_100"
ROUNDS = 8
SLOW_MS = 150.0  # from here on a burst is one run

# CPUBone, arXiv:2603.26425, and its repository: ms at batch 1 on a Raspberry Pi 5 (ONNX
# Runtime), a Pixel 7 Pro (TFLite) and a Xeon W-2125 (ONNX Runtime).
_CPUBONE = "RPi 5 {} / Pixel 7 Pro {} / Xeon {} ms"
# LowFormer, arXiv:2409.03460, and its repository. The edge variants were timed on other
# devices and in another way than the rest.
_LOWFORMER = "GPU {} images/s, {} ms"
_EDGE = "TITAN RTX {} / Jetson TX2 {} / iPhone 13 {} ms"

PUBLISHED = {
    "cpubone-nano": "",
    "cpubone-t0": "RPi 5 12.47 ms",
    "cpubone-s0": "RPi 5 15.53 ms",
    "cpubone-b0": _CPUBONE.format(24.2, 13.8, 6.9),
    "cpubone-b1": _CPUBONE.format(33.5, 18.6, 9.4),
    "cpubone-b2": _CPUBONE.format(60.3, 32.4, 16.1),
    "cpubone-b2-config": "",
    "lowformer-b0": _LOWFORMER.format(5988, 0.3),
    "lowformer-b1": _LOWFORMER.format(4237, 0.43),
    "lowformer-b15": _LOWFORMER.format(2739, 0.66),
    "lowformer-e1": _EDGE.format(1.0, 6.2, 1.7),
    "lowformer-e2": _EDGE.format(1.5, 14.7, 2.5),
    "lowformer-e3": _EDGE.format(3.6, 25.0, 3.6),
    "lowformer-b2": "",
}
TIMM = ("timm:mobilenetv3_large_100", "timm:efficientvit_b1", "timm:repvit_m1")


def model_of(name: str) -> object:
    """The network as its authors deploy it: RepViT with its branches merged."""
    from edgekit.models.sources import load_model

    model = load_model(name)
    if name.startswith("timm:repvit"):
        from dataclasses import replace

        from timm.utils.model import reparameterize_model

        model = replace(model, module=reparameterize_model(model.module))
    return model


def bundle_of(name: str, folder: Path) -> tuple[str, list[str]]:
    """An export to every runtime that runs here, and those that took it."""
    from edgekit.export import export

    out = folder / name.replace(":", "-")
    result = export(model_of(name), ["onnx", "openvino", "executorch"], out, report=False)
    runs = {"onnx": "onnxruntime"}
    for one in result.targets:
        if one.reason:
            print(f"  {name}: {one.target} {one.status}: {one.reason}")
    return str(out), [runs.get(t.target, t.target) for t in result.targets if t.status == "ok"]


def measure(name: str, reference: str, folder: Path) -> Iterator[Contender]:
    """The rows of one network, and as many of the reference; stopped when they are measured."""
    bundle, runtimes = bundle_of(name, folder)
    rows: list[Contender] = []
    try:
        for threads in THREADS:
            rows.append(Contender.start(REFERENCE, BARE, reference, threads))
            rows += [Contender.start(r, r, bundle, threads, warm_up=3) for r in runtimes]
        slow = max(row.ask(0, 1)["times"][0] for row in rows) > SLOW_MS
        race(rows, ROUNDS, *((1, 0) if slow else ()))
    finally:
        stop_all(rows)
    yield from rows


def show(name: str, rows: list[Contender]) -> dict[tuple[str, int], float]:
    """Print a network's rows; its median ratio to the reference by runtime and threads."""
    references = {row.threads: row for row in rows if row.name == REFERENCE}
    print(f"\n{name}" + (f"   (published: {PUBLISHED[name]})" if PUBLISHED.get(name) else ""))
    found = {}
    for row in rows:
        ratios = sorted(row.slower_than(references[row.threads]))
        ratio = ratios[len(ratios) // 2]
        if row.name != REFERENCE:
            found[row.name, row.threads] = ratio
        label = f"({row.name})" if row.name == REFERENCE else row.name
        print(
            f"  {label:24s} {row.threads} threads  min {row.times.min():8.2f}  "
            f"p50 {row.p50:8.2f} ms  {ratio:6.2f}x of the reference",
            flush=True,
        )
    return found


def main(names: list[str]) -> int:
    ratios = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"reference: {REFERENCE} on bare ONNX Runtime; ratios of medians, in turns")
        reference = plain_onnx(model_of(f"timm:{REFERENCE}").module, folder / "reference.onnx")
        for name in names or [*TIMM, *PUBLISHED]:
            ratios[name] = show(name, list(measure(name, reference, folder)))
    print(f"\n{'times ' + REFERENCE:28s}" + "".join(f"{f'{r} {n}T':>16s}" for r, n in _columns()))
    for name, found in ratios.items():
        cells = (f"{found[key]:16.2f}" if key in found else f"{'-':>16s}" for key in _columns())
        print(f"{name:28s}" + "".join(cells))
    best = {name: min(found.values()) for name, found in ratios.items() if found}
    print(
        "fastest row of each, times the reference: "
        + "; ".join(f"{n} {r:.2f}" for n, r in best.items())
    )
    return 0


def _columns() -> list[tuple[str, int]]:
    return [(runtime, threads) for threads in THREADS for runtime in RUNTIMES]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
