"""How the commands print accuracy on labelled pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.cli.output import size, table

if TYPE_CHECKING:
    from rich.console import Console

_NAMES = {"pytorch": "PyTorch, eager"}


def show_evaluation(console: Console, evaluation: Mapping[str, Any]) -> None:
    """The table of an evaluation, as ``edgekit export --json`` has it under ``evaluation``."""
    threads = evaluation["threads"]
    console.print(
        table(
            (
                "runtime",
                ">top-1 %",
                ">top-5 %",
                ">unlike PyTorch",
                ">p50 ms",
                "computes in",
                ">size",
            ),
            (_row(row) for row in evaluation["rows"]),
            title=f"accuracy on {evaluation['samples']:,} pictures of {evaluation['dataset']}; "
            f"latency of {evaluation['timed']} of them, with {threads} thread"
            f"{'' if threads == 1 else 's'}",
        )
    )


def _row(row: Mapping[str, Any]) -> tuple:
    name = _NAMES.get(row["runtime"], row["runtime"])
    if row["top1"] is None:
        return (name, "", "", "", "", row["precision"], size(row["bytes"]))
    different = row["disagreements"] if row["target"] else None
    return (
        name,
        f"{row['top1']:.2f}",
        f"{row['top5']:.2f}",
        different,
        f"{row['p50_ms']:.2f}",
        row["precision"],
        size(row["bytes"]),
    )
