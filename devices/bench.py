"""How fast a bundle runs here, on every runtime.

Each row (a runtime with a number of threads) lives in a process of its own, so that its
memory is its own and engines do not meet in one thread pool. The rows are measured in
turns, and each round starts with another row: a machine that slows down in between slows
all of them down, and none is always the one that follows a busy neighbour.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.errors import DeviceError, EdgekitError, UsageError

from . import host
from .child import Child
from .sample_input import SampleInput, sample_input

BURST = 5  # samples of a row in one turn
SETTLE = 1  # runs at the start of a turn that do not count: the caches are a neighbour's
WARM_UP = 3  # runs before anything counts
DEFAULT_REPEAT = 100
TIME_LIMIT_S = 60.0  # of all rows together, where nobody said how often to repeat
LEAST_SAMPLES = 10
PRECISIONS_REPEAT = 40


@dataclass(frozen=True)
class Quantiles:
    """Of a sample of times, in milliseconds; each is one that was measured (nearest rank)."""

    min: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        ordered = sorted(values)

        def rank(share: float) -> float:
            return round(ordered[math.ceil(share * len(ordered)) - 1], 4)

        return cls(round(ordered[0], 4), rank(0.5), rank(0.9), rank(0.99))


@dataclass(frozen=True)
class Row:
    """The figures of one runtime with one number of threads (None: its own default).

    Attributes:
        precision: what the runtime says it computes in.
        latency_ms: from a decoded input (a frame, as a camera gives it) to the answer:
            preprocessing, engine, postprocessing. engine_ms: the session's run alone.
        throughput: answers per second, one after the other (1 / median latency).
        peak_rss_mb: the process's peak of resident memory; base_rss_mb: before the runtime
            was imported. load_ms: from opening the bundle to a session that can run,
            imports and checksums included. decode_ms: reading and decoding the input
            file, once.
        samples: how many runs the quantiles are of.
    """

    runtime: str
    threads: int | None
    precision: str
    latency_ms: Quantiles
    engine_ms: Quantiles
    throughput: float
    peak_rss_mb: float
    base_rss_mb: float
    load_ms: float
    decode_ms: float
    samples: int


@dataclass(frozen=True)
class Unavailable:
    """A row that could not be measured, and why; threads None stands for any number."""

    runtime: str
    threads: int | None
    reason: str
    error: EdgekitError = field(repr=False, compare=False)


@dataclass(frozen=True)
class Benchmark:
    """All rows, fastest first, what could not be measured, and where and on what."""

    rows: tuple[Row, ...]
    unavailable: tuple[Unavailable, ...]
    host: dict[str, Any]
    input: str
    warnings: tuple[str, ...] = ()


@dataclass(eq=False)
class _Contender:
    """A row while it is measured."""

    runtime: str
    threads: int | None
    child: Child
    loaded: dict[str, Any]
    whole: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    peak_rss_mb: float = 0.0

    def turn(self, samples: int, settle: int = SETTLE) -> None:
        said = _checked(self.child.ask({"samples": samples, "settle": settle}))
        self.whole += said["latency_ms"]
        self.engine += said["engine_ms"]
        self.peak_rss_mb = said["peak_rss_mb"]

    def row(self) -> Row:
        latency = Quantiles.of(self.whole)
        return Row(
            runtime=self.runtime,
            threads=self.threads,
            precision=self.loaded["precision"],
            latency_ms=latency,
            engine_ms=Quantiles.of(self.engine),
            throughput=round(1000 / latency.p50, 3),
            peak_rss_mb=round(self.peak_rss_mb, 1),
            base_rss_mb=round(self.loaded["base_rss_mb"], 1),
            load_ms=round(self.loaded["load_ms"], 1),
            decode_ms=round(self.loaded["decode_ms"], 3),
            samples=len(self.whole),
        )


def default_threads() -> list[int]:
    """One thread, and one a physical core."""
    return sorted({1, host.physical_cores()})


def benchmark(
    bundle: Bundle,
    runtimes: Sequence[str] = (),
    threads: Sequence[int] = (),
    repeat: int | None = None,
    input_path: Path | None = None,
    graph: str | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Benchmark:
    """Measure a bundle on several runtimes and numbers of threads.

    Args:
        runtimes: names of :data:`edgekit.runtimes.RUNTIMES`; none: all of them.
        threads: intra-operator threads; none: :func:`default_threads`.
        repeat: samples per row; None: 100, or as many as a minute allows (at least 10).
        input_path: what to feed; None: see :mod:`edgekit.devices.sample_input`.
        graph: which graph; None: the bundle's default.
        advance: called once a round of :func:`rounds`.

    Returns:
        the rows, and every runtime that could not be measured with the reason.

    Raises:
        UsageError: no such runtime or graph, or there is nothing to feed it.
        BundleError: the bundle is damaged.
    """
    names = _runtimes(runtimes)
    bundle.check_all()  # damage is an error of the whole, not a runtime's bad luck
    machine = host.describe() | {"load_average_before": host.load_average()}
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder:
        fed = _input(bundle, graph, input_path, Path(folder))
        counts = sorted(set(threads or default_threads()))
        started, lost = _start(bundle, names, counts, graph, fed)
        try:
            dead = _measure(started, repeat, advance)
        finally:
            for contender in started:
                contender.child.close()
    machine |= {
        "load_average_after": host.load_average(),
        "temperature_after_c": host.temperature(),
    }
    gone = [contender for contender, _ in dead]
    alive = [contender.row() for contender in started if contender not in gone]
    return Benchmark(
        rows=tuple(sorted(alive, key=lambda row: row.latency_ms.p50)),
        unavailable=(*lost, *(_unavailable(c.runtime, c.threads, e) for c, e in dead)),
        host=machine,
        input=fed.what,
        warnings=_warnings(machine),
    )


def benchmark_precisions(
    bundles: Mapping[str, Bundle], repeat: int = PRECISIONS_REPEAT
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measure bundles of one network in several precisions, in turns, with one thread.

    Args:
        bundles: by precision; all are fed the same input.
        repeat: samples per row.

    Returns:
        a row for each precision and runtime that runs here, as ``edgekit bench --json`` has
        them, with ``variant`` added; and the host. What does not run is left out.
    """
    machine = host.describe() | {"load_average_before": host.load_average()}
    labelled: list[tuple[str, _Contender]] = []
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder:
        try:
            for variant, bundle in bundles.items():
                fed = _input(bundle, None, None, Path(folder))
                started, _ = _start(bundle, _present(bundle), [1], None, fed)
                labelled += [(variant, contender) for contender in started]
            dead = [gone for gone, _ in _measure([c for _, c in labelled], repeat, lambda: None)]
        finally:
            for _, contender in labelled:
                contender.child.close()
    rows = [
        {"variant": variant, **asdict(contender.row())}
        for variant, contender in labelled
        if contender not in dead
    ]
    return rows, machine | {"load_average_after": host.load_average()}


def _present(bundle: Bundle) -> list[str]:
    """The runtimes of those artifacts that are accepted."""
    from ..runtimes import registry

    artifacts = bundle.graph().artifacts
    return [registry.for_target(a.target).name for a in artifacts if a.status == "ok"]


def _runtimes(names: Sequence[str]) -> tuple[str, ...]:
    from ..runtimes import RUNTIMES

    if unknown := [name for name in names if name not in RUNTIMES]:
        raise UsageError(f"no runtime {unknown[0]!r}", f"there are {', '.join(RUNTIMES)}")
    return tuple(dict.fromkeys(names or RUNTIMES))


def rounds(repeat: int | None) -> int:
    """How often :func:`benchmark` calls ``advance``, at most."""
    return math.ceil((repeat or DEFAULT_REPEAT) / BURST)


def _input(bundle: Bundle, graph: str | None, path: Path | None, folder: Path) -> SampleInput:
    chosen = bundle.graph(graph)  # refuses an unknown graph before anything is started
    if path is not None:
        return SampleInput(path.resolve(), path.name)
    return sample_input(bundle.manifest.task.kind, chosen, folder)


def _start(
    bundle: Bundle,
    runtimes: Sequence[str],
    threads: Sequence[int],
    graph: str | None,
    fed: SampleInput,
) -> tuple[list[_Contender], list[Unavailable]]:
    """Load every row, one after the other so that load times are not in each other's way."""
    started: list[_Contender] = []
    lost: list[Unavailable] = []
    try:
        for runtime in runtimes:
            for count in threads:
                try:
                    started.append(_load(bundle, runtime, count, graph, fed))
                except DeviceError as error:  # it died: another number may fare better
                    lost.append(_unavailable(runtime, count, error))
                except EdgekitError as error:  # no number of threads changes this
                    lost.append(_unavailable(runtime, None, error))
                    break
    except BaseException:
        for contender in started:
            contender.child.close()
        raise
    return started, lost


def _load(
    bundle: Bundle, runtime: str, threads: int, graph: str | None, fed: SampleInput
) -> _Contender:
    # The folder that the bundle was opened from or unpacked to: once, not once a row.
    child = Child(
        "edgekit.devices.worker",
        str(bundle.root.resolve()),
        runtime,
        str(threads),
        graph or "",
        str(fed.path),
    )
    try:
        contender = _Contender(runtime, threads, child, _checked(child.listen()))
        contender.turn(1, settle=WARM_UP)
    except BaseException:
        child.close()
        raise
    contender.whole.clear()
    contender.engine.clear()
    return contender


def _measure(
    contenders: list[_Contender], repeat: int | None, advance: Callable[[], None]
) -> list[tuple[_Contender, EdgekitError]]:
    """Measure in turns; returns those that died on the way, each with its error."""
    alive, dead = list(contenders), []
    wanted = repeat or DEFAULT_REPEAT
    start, done = time.monotonic(), 0
    while done < wanted and alive:
        late = repeat is None and time.monotonic() - start > TIME_LIMIT_S
        if late and done >= LEAST_SAMPLES:
            break
        burst = min(BURST, wanted - done)
        for contender in list(alive):
            try:
                contender.turn(burst)
            except DeviceError as error:
                alive.remove(contender)
                dead.append((contender, error))
        alive = alive[1:] + alive[:1]
        done += burst
        advance()
    return dead


def _checked(said: dict[str, Any]) -> dict[str, Any]:
    """A worker's answer; the error that it reports is raised here as what it was."""
    if "error" not in said:
        return said
    kinds = {kind.exit_code: kind for kind in EdgekitError.__subclasses__()}
    raise kinds.get(said["code"], EdgekitError)(*said["error"])


def _unavailable(runtime: str, threads: int | None, error: EdgekitError) -> Unavailable:
    return Unavailable(runtime, threads, str(error), error)


def _warnings(machine: dict[str, Any]) -> tuple[str, ...]:
    found = []
    load, cores = machine["load_average_before"], machine["logical_cores"]
    if load is not None and load > cores:
        found.append(
            f"the load average was {load} on {cores} cores before the measurement:"
            " other programs ran, and the figures are unreliable"
        )
    if machine["governor"] == "powersave":
        found.append("the processor's governor is powersave: figures may be slow and uneven")
    return tuple(found)
