"""Which commands there are, and how one is loaded.

A command is a module of this package, imported only when it is used: listing them all for
``edgekit --help`` imports none. The module has

* ``command``: a function that typer turns into a command, its docstring the help text
  (it may return an exit code; None is 0), or
* ``app``: a ``typer.Typer`` with commands of its own, for ``edgekit cluster …``.

A command whose module is not there is neither listed nor found.
"""

import difflib
import importlib
import importlib.util
from typing import Annotated, NamedTuple

import typer
from typer.core import TyperGroup

from edgekit import __version__
from edgekit.errors import UsageError


class Entry(NamedTuple):
    """A command's module in :mod:`edgekit.cli` and its line in ``edgekit --help``."""

    module: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "models": Entry("models", "List the models that edgekit knows."),
    "doctor": Entry("doctor", "Show what is installed and works here, and what to install."),
    "export": Entry("export", "Take a model to its targets, verify each and write a bundle."),
    "quantize": Entry("quantize", "Export with a lower precision, within an accuracy budget."),
    "verify": Entry("verify", "Judge a bundle again, and find where it departs."),
    "build": Entry("build", "Build on the device what could only be prepared elsewhere."),
    "inspect": Entry("inspect", "Show what a bundle holds and check every byte of it."),
    "run": Entry("run", "Run a bundle on real input: a picture, a sound file, a folder."),
    "bench": Entry("bench", "Measure latency, throughput, memory and load time here."),
    "report": Entry("report", "Draw what was measured over time."),
    "plan": Entry("plan", "Compute which devices a streaming speech model fits on."),
    "pack": Entry("pack", "Pack a bundle and all it needs for a device without a network."),
    "deploy": Entry("deploy", "Copy a bundle to a device, check it and measure it there."),
    "devices": Entry("devices", "Show device profiles, or probe this machine."),
    "cluster": Entry("cluster", "Run a language model over several devices."),
    "demo": Entry("demo", "Start a real-time demo in the browser."),
}


def available() -> list[str]:
    """The names of the commands whose modules are there, in the order of the help."""
    return [
        name
        for name, entry in COMMANDS.items()
        if importlib.util.find_spec(f"edgekit.cli.{entry.module}") is not None
    ]


def load(name: str) -> typer.core.TyperCommand | TyperGroup:
    """Import a command's module and make a command of it."""
    entry = COMMANDS[name]
    module = importlib.import_module(f"edgekit.cli.{entry.module}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(name)(module.command)
    return typer.main.get_command(app)


class LazyGroup(TyperGroup):
    """The root command: knows its subcommands by name and loads the one that is used."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return available()

    def get_command(self, ctx: typer.Context, name: str) -> object | None:
        return load(name) if name in available() else None

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> tuple:
        name = args[0]
        if name in available():
            return name, load(name), args[1:]
        near = difflib.get_close_matches(name, available(), n=1, cutoff=0.5)
        advice = f"edgekit {near[0]}" if near else "edgekit --help"
        why = "options of a command follow its name" if name.startswith("-") else ""
        raise UsageError(f"there is no command {name!r}", why, advice)

    def format_commands(self, ctx: typer.Context, formatter: object) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in available()])


def root_command() -> LazyGroup:
    """The whole command line, with nothing but its names loaded."""
    # Plain help: typer's boxed one needs rich, which more than doubles the time of --help.
    app = typer.Typer(
        cls=LazyGroup,
        rich_markup_mode=None,
        add_completion=False,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    return typer.main.get_command(app)


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """A PyTorch model on every edge runtime, proved to be still the same model.

    Every command takes --json (one JSON document on stdout) and --quiet.
    """
    if version:
        typer.echo(f"edgekit {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
