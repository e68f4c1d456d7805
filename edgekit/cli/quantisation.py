"""The options of quantisation, and how its comparison is printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.output import size, table

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.quant.options import QuantOptions

Calib = Annotated[
    str | None,
    typer.Option(
        "--calib",
        help="Samples to find the ranges of int8 with: a folder, an .npz, or `random`.",
    ),
]
CalibMethod = Annotated[str, typer.Option("--calib-method", help="minmax, entropy or percentile.")]
CalibSamples = Annotated[int, typer.Option("--calib-samples", help="How many at most.")]
EvalSamples = Annotated[
    int, typer.Option("--eval-samples", help="Of --eval, how many an integer precision is shown.")
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        help="Points that quantising may cost; layers stay in floating point until it holds.",
    ),
]
SchemeName = Annotated[
    str | None, typer.Option("--scheme", help="static, dynamic or weights; else what suits.")
]
GroupSize = Annotated[
    int, typer.Option("--group-size", help="Weights that share a scale in int4: 32, 64 or 128.")
]
Format = Annotated[str, typer.Option("--weight-format", help="linear, or palettized (Core ML).")]
Compare = Annotated[
    str, typer.Option("--compare", help="Precisions to put beside an integer one; may be empty.")
]
Sensitivity = Annotated[
    bool, typer.Option("--sensitivity", help="Rank all layers, whether or not the budget holds.")
]


def quantisation(precision: str, *, compare: str, **given: Any) -> QuantOptions | None:
    """The options of an integer precision; None for the others.

    Raises:
        UsageError: a precision to compare with is not known, or an option goes with integers.
    """
    from edgekit.errors import UsageError
    from edgekit.quant.options import QUANTISED, QuantOptions
    from edgekit.quant.precision import THRESHOLDS

    if precision not in QUANTISED:
        for option, value in (("--calib", given["calibration"]), ("--max-drop", given["max_drop"])):
            if value is not None:
                raise UsageError(
                    f"{option} is for integer precisions",
                    f"the precision is {precision}",
                    f"give --precision {', '.join(QUANTISED[:-1])} or {QUANTISED[-1]}",
                )
        return None
    wanted = tuple(name.strip() for name in compare.split(",") if name.strip())
    floating = [name for name in THRESHOLDS if not name.startswith("int")]
    for name in wanted:
        if name not in floating:
            raise UsageError(f"--compare has no {name}", f"there are {', '.join(floating)}")
    return QuantOptions(compare=wanted, **given)


def show_comparison(console: Console, found: Mapping[str, Any]) -> None:
    """The table of precisions, as ``edgekit export --json`` has it under ``comparison``."""
    judged = found["evaluation"]
    pytorch = judged["pytorch_top1"]
    title = f"judged by {judged['samples']:,} samples of {judged['title']}"
    if pytorch is not None:
        title += f" (PyTorch: top-1 {pytorch:.2f} %)"
    columns = (
        "runtime",
        "precision",
        ">top-1 %",
        ">agreement %",
        ">NMSE",
        ">lost",
        ">p50 ms",
        ">speed-up",
        ">size",
        ">of fp32",
        ">peak MB",
    )
    console.print(table(columns, (_row(row) for row in found["rows"]), title=title))
    for row in found["rows"]:
        if row["judged_by"]:
            console.print(f"{row['target']}, {row['variant']}: judged by {row['judged_by']}")


def _row(row: Mapping[str, Any]) -> tuple:
    def form(key: str, text: str) -> str:
        return "" if row[key] is None else text.format(row[key])

    kept = f" ({row['kept']} kept)" if row["kept"] else ""
    failed = "" if row["status"] == "ok" else f" [{row['status']}]"
    return (
        row["runtime"],
        row["variant"] + kept + failed,
        form("top1", "{:.2f}"),
        form("agreement", "{:.2f}"),
        form("nmse", "{:.1e}"),
        form("drop", "{:.2f}"),
        form("p50_ms", "{:.2f}"),
        form("speedup", "{:.2f}x"),
        size(row["bytes"]) if row["bytes"] else "",
        form("size_ratio", "{:.3f}"),
        form("peak_rss_mb", "{:,.0f}"),
    )
