"""``edgekit pack``: an offline kit for a device."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.options import BundlePath, Json, Quiet
from edgekit.cli.output import Output, size
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.devices.kit import Kit

Device = Annotated[
    str,
    typer.Option(
        "--for", help="A name of `edgekit devices`, x86, or a TOML file that probe wrote."
    ),
]
OutPath = Annotated[
    Path | None, typer.Option("--out", "-o", help="A new folder, or a file ending in .tar.gz.")
]
Python = Annotated[
    str | None, typer.Option("--python", help="The version there, e.g. 3.13; else the profile's.")
]

Demo = Annotated[
    bool, typer.Option("--demo", help="Add its demo, and a unit that serves it to the network.")
]


def command(
    bundle: BundlePath,
    device: Device,
    out: OutPath = None,
    python: Python = None,
    demo: Demo = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pack a bundle with all that a device needs to run it, without a network and without torch.

    The kit holds edgekit, the wheels for that device, pip, the bundle, install.sh and a
    systemd unit. Copy it there and run `sh install.sh`.
    """
    import re

    from edgekit.bundle import Bundle
    from edgekit.devices import kit, profiles

    if python is not None and not re.fullmatch(r"3\.\d+", python):
        raise UsageError(f"--python {python} is no version", "", "give one such as 3.11")
    profile = profiles.profile(kit.ALIASES.get(device, device))
    with Output(json, quiet) as output, Bundle.open(bundle) as opened:
        name = kit.slug(opened.manifest.model.name)
        place = out or Path(f"{name}-for-{profile.name}.tar.gz")
        with output.steps() as step:
            made = kit.pack(opened, profile, place, python, demo, step)
        output.result(asdict(made), lambda console: _show(console, made))


def _show(console: "Console", made: "Kit") -> None:
    console.print(f"kit:      {made.path} ({size(made.bytes)}, {len(made.wheels)} wheels)")
    console.print(f"for:      {made.device}: {made.machine}, Python {made.python}")
    console.print(f"runtimes: {', '.join(made.runtimes)}")
    console.print("there:    sh install.sh, as root into /opt/edgekit, else into ~/.local/share")
