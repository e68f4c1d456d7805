"""``edgekit report history``: what was measured over time, drawn."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.options import Json, Quiet
from edgekit.cli.output import Output, table, write_whole
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.devices.history import Series

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)

Subject = Annotated[
    str | None,
    typer.Argument(metavar="[BUNDLE|MODEL]", help="Of this bundle's model, or of a model's name."),
]
OutPath = Annotated[
    Path | None, typer.Option("--out", "-o", help="Write a page with charts (FILE.html).")
]


@app.callback()
def report() -> None:
    """What was measured over time, from what `edgekit bench --save` and `deploy` remember."""


@app.command()
def history(
    subject: Subject = None, out: OutPath = None, json: Json = False, quiet: Quiet = False
) -> None:
    """Show what was saved: each figure beside the one before it, and what changed in between.

    With -o a page of charts is written. A bundle stands for all bundles of its model.
    """
    from edgekit import measurements
    from edgekit.devices.history import series
    from edgekit.devices.history_page import page

    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{out} is no name of a page", "", "give -o a name that ends in .html")
    with Output(json, quiet) as output:
        found = series(measurements.history(), _model(subject))
        if not found:
            raise UsageError(
                "nothing was measured" + (f" of {subject}" if subject else ""),
                f"nothing of it is in {measurements.store_path()}",
                "edgekit bench BUNDLE --save",
            )
        if out is not None:
            text = page(found)
            write_whole(out, lambda part: part.write_text(text, encoding="utf-8"))
        document = {"series": [asdict(one) for one in found], "file": out}
        output.result(document, lambda console: _show(console, found, out))


def _model(subject: str | None) -> str | None:
    """The name of a bundle's model; what is no bundle is a name already."""
    from edgekit.bundle import Bundle

    if subject is None or not Path(subject).exists():
        return subject
    with Bundle.open(subject) as bundle:
        return bundle.manifest.model.name


def _show(console: "Console", found: "list[Series]", out: Path | None) -> None:
    from edgekit.devices.history_page import percent

    columns = ("model", "machine", "line", "when (UTC)", ">p50 ms", ">change", "what changed")
    rows = (
        (
            one.model,
            one.machine,
            one.label,
            point.at,
            f"{point.p50_ms:.2f}",
            percent(point.ratio),
            "; ".join(point.changed),
        )
        for one in found
        for point in one.points
    )
    console.print(table(columns, rows))
    if out is not None:
        console.print(f"written to: {out}")
