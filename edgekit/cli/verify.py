"""``edgekit verify``: judge a bundle again, and find where it departs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.export import LEVELS, need_torch
from edgekit.cli.options import BundlePath, Json, Locate, Quiet, Tolerance
from edgekit.cli.output import Output, table

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.export.judge_bundle import Verdict

# As for an export: a wrong answer is graver than a refusal, a refusal than an absence.
GRAVITY = (5, 7, 1, 4, 8, 9, 3)


def command(
    bundle: BundlePath,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Only these; repeatable.")
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option("--samples", help="Judge on these real inputs, against PyTorch again."),
    ] = None,
    tolerance: Tolerance = None,
    locate: Locate = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Run every artifact that can run here and compare it with PyTorch's answers.

    The bundle carries inputs and answers, so this works without PyTorch; --samples and
    --locate make the network again and need it. Exits 5 if an artifact departs.
    """
    from edgekit.bundle import Bundle
    from edgekit.export.judge_bundle import judge_bundle
    from edgekit.quant.precision import parse_tolerance

    bounds = parse_tolerance(tolerance)
    if samples is not None or locate:
        need_torch()
    with Output(json, quiet) as out, Bundle.open(bundle) as opened:
        with out.status("Verifying"):
            verdicts = judge_bundle(opened, target or (), samples, bounds, locate)
        code = exit_code(verdicts)
        document = {
            "bundle": bundle,
            "model": opened.manifest.model.name,
            "passed": code == 0,
            "artifacts": [verdict.to_json() for verdict in verdicts],
        }
        out.result(document, lambda console: _show(console, verdicts))
        for verdict in verdicts:
            if verdict.reason:
                out.warn(f"{verdict.target} {verdict.status}: {verdict.reason}")
            if verdict.located:
                out.warn(f"{verdict.target} first departs at {verdict.located}")
    return code


def exit_code(verdicts: "list[Verdict]") -> int:
    """0 if every artifact is ok, else the gravest failure's code."""
    codes = {verdict.exit_code for verdict in verdicts}
    return next((code for code in GRAVITY if code in codes), 0)


def _show(console: "Console", verdicts: "list[Verdict]") -> None:
    columns = ("graph", "target", "status", "how it was checked", ">NMSE", ">cosine", "computes in")
    console.print(table(columns, (_row(verdict) for verdict in verdicts)))


def _row(verdict: "Verdict") -> tuple[Any, ...]:
    check = verdict.verify
    metrics = check.metrics if check else None
    return (
        verdict.graph,
        verdict.target,
        verdict.status + (" (rejected)" if verdict.rejected else ""),
        LEVELS[check.level] if check else "",
        f"{metrics.nmse:.1e}" if metrics else "",
        f"{metrics.cosine:.9f}" if metrics else "",
        verdict.effective_precision or "",
    )
