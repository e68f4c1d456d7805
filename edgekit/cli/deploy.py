"""``edgekit deploy``: a bundle to devices over SSH, judged and measured there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.bench import InputPath, Repeat, Threads
from edgekit.cli.options import Json, Quiet
from edgekit.cli.output import Output, size, table
from edgekit.cli.verify import GRAVITY
from edgekit.errors import EdgekitError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.bundle import Bundle
    from edgekit.devices.deploy import Report, Wishes
    from edgekit.devices.destination import Destination

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="BUNDLE [ssh://USER@HOST:PORT/FOLDER …]",
        help="A bundle and where to; with --rollback the places alone.",
    ),
]
Hosts = Annotated[
    Path | None, typer.Option("--hosts", help="More places, from a file with one a line.")
]
Rollback = Annotated[
    bool, typer.Option("--rollback", help="Swap the current bundle with the previous one.")
]
Identity = Annotated[
    Path | None, typer.Option("--identity", "-i", help="A private key; else the agent's.")
]
KnownHosts = Annotated[
    Path | None, typer.Option("--known-hosts", help="In place of ~/.ssh/known_hosts.")
]
Command = Annotated[
    str | None, typer.Option("--edgekit", help="Where edgekit is there; else it is looked for.")
]
Bench = Annotated[
    bool, typer.Option("--bench/--no-bench", help="Measure the bundle there (the default).")
]


def command(
    words: Words = [],  # noqa: B006 - typer copies it
    hosts: Hosts = None,
    rollback: Rollback = False,
    identity: Identity = None,
    known_hosts: KnownHosts = None,
    edgekit: Command = None,
    measure: Bench = True,
    repeat: Repeat = None,
    threads: Threads = None,
    input_path: InputPath = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Copy a bundle to devices over SSH, verify it there, put it in its place and measure it.

    FOLDER/current.edgekit is replaced when the new one has passed there; what it replaces is
    kept for --rollback. Host keys are those of known_hosts, users are let in by keys.
    """
    from edgekit.devices.deploy import Wishes
    from edgekit.devices.ssh import Access

    bundle, places = _places(words, hosts, rollback)
    if input_path is not None and not input_path.is_file():
        raise UsageError(f"there is no file {input_path}")
    wishes = Wishes(
        access=Access(identity, known_hosts),
        edgekit=edgekit,
        bench=measure,
        repeat=repeat,
        threads=tuple(threads or ()),
        input=input_path,
    )
    with Output(json, quiet) as out:
        reports = (
            _roll_back(out, places, wishes) if rollback else _deploy(out, bundle, places, wishes)
        )
        return _say(out, bundle, reports)


def _places(
    words: list[str], hosts: Path | None, rollback: bool
) -> "tuple[Path | None, list[Destination]]":
    """The bundle, if one is to be sent, and all destinations, each once."""
    from edgekit.devices.destination import SCHEME, parse, read_hosts

    bundle = None
    if words and not rollback:
        if words[0].startswith(SCHEME):
            raise UsageError("no bundle is given", "", "edgekit deploy BUNDLE ssh://HOST/FOLDER")
        bundle, words = Path(words[0]), words[1:]
    found = [parse(word) for word in words] + (read_hosts(hosts) if hosts else [])
    if not found or (bundle is None and not rollback):
        raise UsageError(
            "there is nowhere to deploy to" if bundle or rollback else "no bundle is given",
            "",
            "edgekit deploy BUNDLE ssh://HOST/FOLDER, or --hosts FILE",
        )
    return bundle, list(dict.fromkeys(found))


def _deploy(
    out: Output, path: Path, places: "list[Destination]", wishes: "Wishes"
) -> "list[Report]":
    from edgekit.bundle import Bundle
    from edgekit.devices.deploy import Parcel
    from edgekit.devices.fleet import deploy_all
    from edgekit.devices.sealed import sealed

    with Bundle.open(path) as bundle, sealed(bundle) as file:
        parcel = Parcel.of(bundle, file)
        with out.status(f"Deploying {size(parcel.bytes)} to {', '.join(p.name for p in places)}"):
            reports = deploy_all(parcel, places, wishes)
        _remember(out, bundle, reports)
    return reports


def _roll_back(out: Output, places: "list[Destination]", wishes: "Wishes") -> "list[Report]":
    from edgekit.devices.fleet import roll_back_all

    with out.status(f"Rolling back {', '.join(place.name for place in places)}"):
        return roll_back_all(places, wishes)


def _remember(out: Output, bundle: "Bundle", reports: "list[Report]") -> None:
    """Keep the figures as ``edgekit bench --save`` does, each under its own machine."""
    from edgekit import measurements
    from edgekit.export import refresh_report

    measured = [report for report in reports if report.bench and report.bench["rows"]]
    try:
        for report in measured:
            machine = {"name": _machine(report), **report.bench["host"]}
            measurements.save(
                bundle.digest,
                report.bench["rows"],
                machine,
                host=machine.get("fingerprint"),
                model=bundle.manifest.model.name,
            )
        if measured:
            refresh_report(bundle.path)
    except (OSError, EdgekitError) as error:
        out.note(f"the figures are not in the bundle's report: {error}")


def _machine(report: "Report") -> str:
    return f"{report.bench['host'].get('cpu', 'a device')}, over SSH to {report.host}"


def _say(out: Output, bundle: Path | None, reports: "list[Report]") -> int:
    document = {"bundle": bundle, "hosts": [_document(report) for report in reports]}
    failed = [report.error for report in reports if report.error]
    if len(reports) == 1 and failed:  # one line, and its own kind
        failed[0].document = document
        raise failed[0]
    out.result(document, lambda console: _show(console, reports))
    for report in reports:
        for note in report.notes:
            out.warn(f"{report.host}: {note}")
    for error in failed:
        out.warn(str(error))
    codes = {error.exit_code for error in failed}
    gravest = next((code for code in GRAVITY if code in codes), None)
    return 0 if not codes else gravest or max(codes)


def _document(report: "Report") -> dict[str, Any]:
    from dataclasses import fields

    plain = {one.name: getattr(report, one.name) for one in fields(report)}
    error = report.error
    return {
        **plain,
        "status": "failed" if error else "ok",
        "error": error
        and {
            "what": error.what,
            "why": error.why,
            "next": error.next_step,
            "code": error.exit_code,
        },
    }


def _show(console: "Console", reports: "list[Report]") -> None:
    columns = ("host", "status", "processor", "verified", "fastest", ">p50 ms", ">peak MB", ">sent")
    console.print(table(columns, (_row(report) for report in reports)))


def _row(report: "Report") -> tuple[Any, ...]:
    status = "failed" if report.error else "current" if report.activated else ""
    row = (report.bench or {}).get("rows", [None])[0]
    verified = [
        one["target"]
        for one in (report.verify or {}).get("artifacts", ())
        if one["status"] == "ok" and (one["verify"] or {}).get("level") == "ran"
    ]
    return (
        report.host,
        status,
        (report.device or {}).get("cpu"),
        ", ".join(dict.fromkeys(verified)),
        f"{row['runtime']}, {row['threads']} threads" if row else None,
        f"{row['latency_ms']['p50']:.2f}" if row else None,
        f"{row['peak_rss_mb']:.0f}" if row else None,
        size(report.sent),
    )
