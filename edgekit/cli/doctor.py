"""``edgekit doctor``: what works here, and what to install."""

from typing import TYPE_CHECKING

from edgekit.cli.options import Json, Quiet
from edgekit.cli.output import Output, table
from edgekit.errors import MissingBackendError

if TYPE_CHECKING:
    from rich.console import Console

MARKS = {"ok": "works", "limited": "partly", "missing": "missing", "broken": "BROKEN"}


def command(json: Json = False, quiet: Quiet = False) -> int:
    """Show what is installed and works here, per back end.

    Each back end is tried in a process of its own. The exit code is 0 unless ONNX Runtime,
    which edgekit cannot do without, is missing or broken.
    """
    from dataclasses import asdict

    from edgekit.devices import doctor, host

    with Output(json, quiet) as out:
        with out.progress("Trying back ends", len(doctor.BACKENDS)) as advance:
            found = doctor.examine(advance=advance)
        document = {"backends": [asdict(d) for d in found], "host": host.describe()}
        out.result(document, lambda console: _show(console, document))
        lost = [d for d in found if d.core and d.status in ("missing", "broken")]
        for diagnosis in lost:
            out.warn(f"{diagnosis.name}: {diagnosis.detail}. Next: {diagnosis.install}")
        return MissingBackendError.exit_code if lost else 0


def _show(console: "Console", document: dict) -> None:
    host = document["host"]
    console.print(
        f"{host['cpu']}, {host['cores']} cores, {host['memory_mb'] / 1000:.1f} GB, "
        f"{host['system']} {host['machine']}, Python {host['python']}"
    )
    console.print(
        table(
            ("back end", "", "version", "for", "what was found"),
            (
                (d["name"], MARKS[d["status"]], d["version"], d["purpose"], _found(d))
                for d in document["backends"]
            ),
        )
    )
    for diagnosis in document["backends"]:
        if diagnosis["install"]:
            console.print(f"{diagnosis['name']}: {diagnosis['install']}")


def _found(diagnosis: dict) -> str:
    devices = ", ".join(diagnosis["devices"])
    return f"{diagnosis['detail']} ({devices})" if devices else diagnosis["detail"]
