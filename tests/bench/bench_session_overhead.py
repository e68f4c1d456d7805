"""What a session costs over the bare ``onnxruntime`` call, on the same graph and input.

Run: ``python tests/bench/bench_session_overhead.py BUNDLE [PAIRS]``. One thread. Each pair
is one run of either, which of them first alternates; the median of the pairs' ratios is
printed. A second bare session measures the noise: its ratio would be 1 on a quiet machine.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from edgekit.bundle import Bundle
from edgekit.runtimes import load

LIMIT = 1.03
WARM_UP = 10


def bare_call(path: str, feed: dict[str, np.ndarray]) -> Callable[[], object]:
    """A run of ``onnxruntime`` as its own documentation shows it, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feed)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def paired_ratio(
    one: Callable[[], object], other: Callable[[], object], pairs: int
) -> tuple[float, float, float]:
    """Median seconds of either, and the median of the ratios ``one / other``."""
    for _ in range(WARM_UP):
        one(), other()
    times = []
    for i in range(pairs):
        if i % 2:
            first = seconds(one)
            times.append((first, seconds(other)))
        else:
            second = seconds(other)
            times.append((seconds(one), second))
    ones, others = zip(*times, strict=True)
    ratio = statistics.median(a / b for a, b in times)
    return statistics.median(ones), statistics.median(others), ratio


def main(path: str, pairs: int = 200) -> int:
    with Bundle.open(path) as bundle:
        graph = bundle.graph()
        (artifact,) = (a for a in graph.artifacts if a.target == "onnx")
        file = str(bundle.file(artifact.file))
        random = np.random.default_rng(0)
        feed = {
            spec.name: random.standard_normal(spec.shape).astype(spec.dtype)
            for spec in graph.inputs
        }
        with load(bundle, "onnxruntime", threads=1) as session:
            bare, second = bare_call(file, feed), bare_call(file, feed)
            ours, theirs, ratio = paired_ratio(lambda: session.run(feed), bare, pairs)
            *_, noise = paired_ratio(second, bare, pairs)
    print(f"{bundle.manifest.model.name}: {pairs} pairs, one thread")
    print(f"edgekit session  {ours * 1e3:9.4f} ms median")
    print(f"bare onnxruntime {theirs * 1e3:9.4f} ms median")
    verdict = "within" if ratio <= LIMIT else "OVER"
    print(f"a session: {ratio:.4f}x the bare call, {verdict} {LIMIT}x; bare to bare {noise:.4f}x")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
