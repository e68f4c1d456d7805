"""One benchmarked row: a process that loads one bundle on one runtime and measures itself.

``python -m edgekit.devices.worker BUNDLE RUNTIME THREADS GRAPH INPUT`` answers one JSON
line when it has loaded, and one for each request ``{"samples": N, "settle": M}`` on stdin:
M runs that do not count, then N that do. It ends with its stdin. (``THREADS`` 0 is the
runtime's own default; ``GRAPH`` may be empty.)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.errors import EdgekitError

from .child import answer, claim_stdout

if TYPE_CHECKING:
    from ..runtimes import Session
    from ..runtimes.tasks import Task


def serve(stream: TextIO, bundle: str, runtime: str, threads: int, graph: str, path: str) -> None:
    """Load, answer with ``load_ms`` and the effective precision, then answer requests."""
    base = resident_mb("VmRSS")
    start = time.perf_counter()
    from edgekit.bundle import Bundle

    from ..runtimes import load, tasks

    with (
        Bundle.open(bundle) as opened,
        load(opened, runtime=runtime, threads=threads or None, graph=graph or None) as session,
    ):
        load_ms = (time.perf_counter() - start) * 1e3
        task = tasks.for_bundle(opened, session)
        start = time.perf_counter()
        source = task.decode(path)
        loaded = {
            "load_ms": load_ms,
            "decode_ms": (time.perf_counter() - start) * 1e3,
            "precision": session.effective_precision,
            "base_rss_mb": base,
        }
        answer(stream, loaded)
        for line in sys.stdin:
            request = json.loads(line)
            measure(session, task, source, request["settle"])
            samples = measure(session, task, source, request["samples"])
            answer(stream, {**samples, "peak_rss_mb": resident_mb("VmHWM")})


def measure(session: Session, task: Task, source: Any, count: int) -> dict[str, list[float]]:
    """``count`` times from ``source`` to the answer: whole and engine-only milliseconds."""
    whole, engine = [], []
    for _ in range(count):
        start = time.perf_counter_ns()
        begun = task.begin(source)
        before = time.perf_counter_ns()
        outputs = session.run(begun.inputs)
        after = time.perf_counter_ns()
        begun.finish(outputs)
        whole.append((time.perf_counter_ns() - start) / 1e6)
        engine.append((after - before) / 1e6)
    return {"latency_ms": whole, "engine_ms": engine}


def resident_mb(field: str) -> float:
    """Resident memory of this process in MB (10^6 bytes): ``VmRSS`` now, ``VmHWM`` its peak.

    Not ``ru_maxrss`` where /proc is: Linux carries that over from the process that started
    us, so that a small child of a large parent looks large.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass  # no /proc: not Linux
    if field == "VmRSS":
        import psutil

        return psutil.Process().memory_info().rss / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def main(arguments: list[str]) -> None:
    bundle, runtime, threads, graph, path = arguments
    stream = claim_stdout()
    try:
        serve(stream, bundle, runtime, int(threads), graph, path)
    except EdgekitError as error:
        answer(
            stream,
            {"error": [error.what, error.why, error.next_step], "code": error.exit_code},
        )


if __name__ == "__main__":
    main(sys.argv[1:])
