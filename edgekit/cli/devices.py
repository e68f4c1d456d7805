"""``edgekit devices``: the profiles, one of them, or one of this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.options import Json, Quiet
from edgekit.cli.output import Output, table, write_whole
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgekit.devices.profiles import Processor, Profile

PROBE = "probe"

Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME|probe", help="A profile, a TOML file, or this machine."),
]
OutFile = Annotated[
    Path | None, typer.Option("--out", "-o", help="Where probe writes a profile (FILE.toml).")
]


def command(
    name: Name = None, out: OutFile = None, json: Json = False, quiet: Quiet = False
) -> None:
    """Show the device profiles and where each figure is from, or one in full.

    `edgekit devices probe` reads this machine, tries its runtimes, and writes a profile
    that `edgekit export --device FILE.toml` takes.
    """
    from edgekit.devices import profiles

    if out is not None and name != PROBE:
        raise UsageError("only a probe is written", "", "edgekit devices probe -o FILE.toml")
    with Output(json, quiet) as output:
        if name == PROBE:
            _probe(output, out)
        elif name is not None:
            one = profiles.profile(name)
            output.result({"device": _document(one)}, lambda console: _show(console, one))
        else:
            found = [profiles.profile(name) for name in profiles.names()]
            document = {"devices": [_document(one) for one in found]}
            output.result(document, lambda console: _show_all(console, found))


def _probe(output: Output, out: Path | None) -> None:
    from edgekit.devices import this_machine
    from edgekit.devices.profile_toml import to_toml

    if out is not None and out.suffix != ".toml":
        raise UsageError(
            f"{out} is no name of a profile", "--device knows files by the end .toml", "-o my.toml"
        )
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"cannot write {out}", f"there is no folder {out.parent}")
    with output.progress("Measuring, and trying runtimes", len(this_machine.BACKENDS)) as advance:
        found = this_machine.probe(advance)
    text = to_toml(found, "Written by `edgekit devices probe`; docs/devices.md describes the keys.")
    if out is not None:
        write_whole(out, lambda part: part.write_text(text, encoding="utf-8"))
    document = {"device": _document(found), "file": out}

    def show(console: "Console") -> None:
        if out is None:
            console.print(text, end="")
        else:
            _show(console, found)
            console.print(f"written to: {out}")

    output.result(document, show)


def _document(one: "Profile") -> dict[str, Any]:
    return {**one.model_dump(mode="json"), "notes": one.remarks()}


def _table(found: "list[Profile]") -> "Table":
    columns = ("name", "device", "processor", ">memory", "targets", "precision", ">threads")
    return table(
        columns,
        (
            (
                one.name,
                one.title,
                _cores(one.processor) if one.processor else "",
                _memory(one.memory_bytes),
                ", ".join(one.export.targets),
                one.export.precision,
                one.export.threads,
            )
            for one in found
        ),
    )


def _show_all(console: "Console", found: "list[Profile]") -> None:
    console.print(_table(found))
    # Lines, not a table: addresses are to be copied whole.
    for one in found:
        for source in one.sources:
            if source.gives:
                figures = ", ".join(source.gives)
                console.print(f"{one.name}: {figures}: {source.what}: {source.where}")


def _show(console: "Console", one: "Profile") -> None:
    processor, export = one.processor, one.export
    isa = f" ({', '.join(processor.isa)})" if processor and processor.isa else ""
    facts = {
        "name": one.name,
        "device": f"{one.title} ({one.kind})",
        "processor": f"{processor.name}: {_cores(processor)}{isa}" if processor else None,
        "memory": _memory(one.memory_bytes) + _bandwidth(one.memory_bandwidth, " at up to"),
        "system": _system(one),
        "measured": _measured(one),
        "targets": ", ".join(export.targets),
        "precision": export.precision,
        "threads": export.threads,
        "why": export.why,
    }
    for accelerator in one.accelerators:
        capability = accelerator.compute_capability
        more = f" (compute capability {capability})" if capability else ""
        facts[accelerator.kind.upper()] = f"{accelerator.name}{more}"
    for key, value in facts.items():
        if value is not None:
            console.print(f"{key + ':':12s}{value}")
    for note in one.remarks():
        console.print(f"note:       {note}")
    for source in one.sources:
        of = f" ({', '.join(source.gives)})" if source.gives else ""
        console.print(f"source:     {source.what}: {source.where}{of}")
    for figure in one.figures():
        if one.source_of(figure) is None:
            console.print(f"source:     of {figure} none is given")


def _system(one: "Profile") -> str | None:
    if one.system is None:
        return None
    facts = one.system
    return f"{facts.os}, {facts.machine}, glibc {facts.glibc}, Python {facts.python}"


def _measured(one: "Profile") -> str | None:
    """What a probe measured, in words; what it could not measure is left out."""
    if one.measured is None:
        return None
    found = one.measured
    held = {None: "", True: "held back by heat or power", False: "not held back by heat or power"}
    parts = (
        _bandwidth(found.memory_bandwidth, "copies memory at")
        + (f" ({found.memory_threads} at once)" if found.memory_bandwidth else ""),
        _bandwidth(found.disk_read_bandwidth, "reads its disk at"),
        _bandwidth(found.disk_write_bandwidth, "writes it at"),
        f"governor {found.governor}" if found.governor else "",
        f"{found.temperature_c} °C" if found.temperature_c is not None else "",
        held[found.throttled],
    )
    return ", ".join(part for part in parts if part)


def _bandwidth(value: int | None, words: str) -> str:
    return f"{words} {value / 1e9:.1f} GB/s" if value else ""


def _cores(processor: "Processor") -> str:
    return " + ".join(
        f"{cores.count} x {cores.kind}"
        + (f" at {cores.clock_mhz / 1000:.2f} GHz" if cores.clock_mhz else "")
        for cores in processor.cores
    )


def _memory(count: int) -> str:
    # Memory is sold in powers of two: a board of 8 GB has 8 GiB.
    return f"{count / 2**30:.1f}".removesuffix(".0") + " GiB"
