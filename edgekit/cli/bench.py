"""``edgekit bench``: how fast a bundle runs here, on every runtime."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.options import BundlePath, GraphName, Json, Quiet
from edgekit.cli.output import Output, table
from edgekit.errors import EdgekitError, MissingBackendError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.bundle import Bundle
    from edgekit.devices.bench import Benchmark

COLUMNS = (
    "runtime",
    ">threads",
    "computes in",
    ">p50 ms",
    ">p90",
    ">p99",
    ">min",
    ">engine p50",
    ">per second",
    ">peak MB",
    ">load ms",
)

Runtimes = Annotated[
    list[str] | None, typer.Option("--runtime", "-r", help="Repeatable; else every runtime.")
]
Threads = Annotated[
    list[int] | None,
    typer.Option("--threads", "-t", min=1, help="Repeatable; else 1 and every core."),
]
Repeat = Annotated[
    int | None,
    typer.Option("--repeat", min=1, help="Samples a row; else 100, or a minute's worth."),
]
InputPath = Annotated[
    Path | None, typer.Option("--input", help="A real input; else a photograph found here.")
]
Save = Annotated[
    bool, typer.Option("--save", help="Remember the figures: --runtime auto follows them.")
]

Report = Annotated[
    bool,
    typer.Option("--report/--no-report", help="With --save, show them in the bundle's report."),
]


def command(
    bundle: BundlePath,
    runtime: Runtimes = None,
    threads: Threads = None,
    repeat: Repeat = None,
    input_path: InputPath = None,
    graph: GraphName = None,
    save: Save = False,
    report: Report = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency, throughput, peak memory and load time here.

    End to end is from a decoded picture to the answer; the engine's share is shown beside
    it.
    Rows are measured in turns, each in a process of its own.
    """
    from edgekit.bundle import Bundle
    from edgekit.devices import bench

    with Output(json, quiet) as out:
        with Bundle.open(bundle) as opened:
            with out.progress("Measuring", bench.rounds(repeat)) as advance:
                measured = bench.benchmark(
                    opened, runtime or (), threads or (), repeat, input_path, graph, advance
                )
            document = _document(bundle, measured)
            if measured.rows and save:
                _save(out, opened, document, report)
        for warning in measured.warnings:
            out.warn(warning)
        if not measured.rows:
            error = _first_error(measured)
            error.document = document
            raise error
        out.result(document, lambda console: _show(console, document))


def _document(bundle: Path, measured: "Benchmark") -> dict[str, Any]:
    return {
        "bundle": bundle,
        "input": measured.input,
        "rows": [asdict(row) for row in measured.rows],
        "unavailable": [
            {"runtime": one.runtime, "threads": one.threads, "reason": one.reason}
            for one in measured.unavailable
        ],
        "host": measured.host,
        "warnings": measured.warnings,
    }


def _first_error(measured: "Benchmark") -> EdgekitError:
    """Why nothing was measured: of all reasons one that is not just an absent back end."""
    errors = [one.error for one in measured.unavailable]
    return min(errors, key=lambda e: isinstance(e, MissingBackendError | UsageError))


def _save(out: Output, bundle: "Bundle", document: dict[str, Any], report: bool) -> None:
    """Remember the figures, and show them in the bundle's report where that can be done."""
    from edgekit import measurements
    from edgekit.export import refresh_report

    name = bundle.manifest.model.name
    measurements.save(bundle.digest, document["rows"], document["host"], model=name)
    out.note(f"saved {len(document['rows'])} rows in {measurements.store_path()}")
    if not report:
        return
    try:
        refresh_report(bundle.path)
    except (OSError, EdgekitError) as error:
        out.note(f"the bundle's report stays as it was: {error}")
    else:
        out.note(f"updated the report of {bundle.path}")


def _show(console: "Console", document: dict[str, Any]) -> None:
    host = document["host"]
    console.print(f"{host['cpu']}, {host['cores']} cores; fed with {document['input']}")
    console.print(table(COLUMNS, (_cells(row) for row in document["rows"])))
    for missing in document["unavailable"]:
        threads = f" with {missing['threads']} threads" if missing["threads"] else ""
        console.print(f"{missing['runtime']}{threads} was not measured: {missing['reason']}")


def _cells(row: dict[str, Any]) -> tuple:
    latency = row["latency_ms"]
    return (
        row["runtime"],
        row["threads"],
        row["precision"],
        *(f"{latency[name]:.2f}" for name in ("p50", "p90", "p99", "min")),
        f"{row['engine_ms']['p50']:.2f}",
        f"{row['throughput']:.1f}",
        f"{row['peak_rss_mb']:.0f}",
        f"{row['load_ms']:.0f}",
    )
