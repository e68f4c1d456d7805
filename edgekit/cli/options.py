"""Options that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout; all else on stderr.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only results, warnings and errors.")]
GraphName = Annotated[
    str | None, typer.Option("--graph", help="Which graph, where a bundle has several.")
]
BundlePath = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle: a folder or an .edgekit file.")
]
Tolerance = Annotated[
    str | None, typer.Option("--tolerance", help='Bounds as JSON, e.g. {"nmse": 1e-8}.')
]
Locate = Annotated[
    bool, typer.Option("--locate", help="Where a target departs, name the first node.")
]
