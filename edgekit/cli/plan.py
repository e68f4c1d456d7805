"""``edgekit plan``: what a streaming speech model asks of a memory, and which devices have it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.options import Json, Quiet
from edgekit.cli.output import Output, table
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.devices.profiles import Profile
    from edgekit.models.moshi.plan import Cost

FRAME_RATE = 12.5  # frames a second that must be reached
FITS, TIGHT = 0.7, 0.9  # shares of a peak that programs reach, and that a good one may
SHARE_OF_MEMORY = 0.85  # the rest is the system's

Model = Annotated[str, typer.Argument(metavar="MODEL", help="moshi-7b, mimi, …")]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", help="A profile's name or TOML file; repeatable. Default: all."),
]
Bandwidth = Annotated[
    float | None,
    typer.Option("--bandwidth", min=0.1, metavar="GB/S", help="In place of the device's own."),
]
Context = Annotated[
    int | None, typer.Option("--context", help="Steps of the ring that are in use. Default: all.")
]
Cache = Annotated[str, typer.Option("--cache", help="Of keys and values: fp32, fp16 or bf16.")]
TargetName = Annotated[
    str | None,
    typer.Option("--target", help="Whose integer format. Default: 16-bit scales in groups of 32."),
]


def command(
    model: Model,
    device: Devices = None,
    bandwidth: Bandwidth = None,
    context: Context = None,
    cache: Cache = "fp32",
    target: TargetName = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute what fits on which device, and at what frame rate: by memory and its bandwidth.

    Each frame of 80 ms reads all weights and the keys and values of the past. Nothing is
    measured; a device never does better than this.
    """
    from edgekit.models.moshi import plan

    with Output(json, quiet) as out:
        if cache not in plan.CACHES:
            raise UsageError(f"no --cache {cache}", f"there is {', '.join(plan.CACHES)}")
        if target is not None and target not in plan.SCALE_BITS:
            raise UsageError(f"no target {target!r}", f"there is {', '.join(plan.SCALE_BITS)}")
        rows = [
            _row(precision, *_costs(model, precision, target, cache, context))
            for precision in _precisions(model)
        ]
        profiles = _profiles(device, bandwidth)
        fits = [_on(row, one) for one in profiles for row in rows]
        document = {
            "model": model,
            "frame_rate": FRAME_RATE,
            "cache": cache,
            "context": context,
            "target": target,
            "rows": rows,
            "devices": fits,
        }
        out.result(document, lambda console: _show(console, rows, fits))


def _precisions(model: str) -> tuple[str, ...]:
    from edgekit.models.moshi import plan

    return ("fp32",) if model in plan.CODECS else plan.PRECISIONS


def _costs(
    model: str, precision: str, target: str | None, cache: str, context: int | None
) -> "tuple[Cost, Cost]":
    from edgekit import models
    from edgekit.models.moshi import plan

    parameters = {name: models.spec(name).parameters for name in plan.CODECS}
    return plan.plan(models.spec(model).name, precision, parameters, target, cache, context)


def _row(precision: str, language: "Cost", codec: "Cost") -> dict[str, Any]:
    whole = language + codec
    return {
        "precision": precision,
        "weights_bytes": round(language.weights),
        "cache_bytes": round(language.cache),
        "codec_bytes": round(codec.frame),
        "frame_bytes": round(whole.frame),
        "bytes_per_second": round(whole.frame * FRAME_RATE),
        "resident_bytes": round(whole.resident),
    }


def _profiles(names: list[str] | None, bandwidth: float | None) -> "list[Profile]":
    from edgekit.devices import profiles

    found = [profiles.profile(name) for name in names or profiles.names()]
    if bandwidth is not None:
        wanted = {"memory_bandwidth": round(bandwidth * 1e9)}
        return [one.model_copy(update=wanted) for one in found]
    for one in found:
        if names and one.memory_bandwidth is None:
            raise UsageError(
                f"the bandwidth of {one.name}'s memory is not known",
                "its maker does not publish it",
                "give --bandwidth GB/S",
            )
    return [one for one in found if one.memory_bandwidth is not None]


def _on(row: dict[str, Any], device: "Profile") -> dict[str, Any]:
    """One precision on one device."""
    rate = device.memory_bandwidth / row["frame_bytes"]
    share, memory = FRAME_RATE / rate, row["resident_bytes"] / device.memory_bytes
    verdict = "fits" if share <= FITS else "tight" if share <= TIGHT else "no"
    if memory > SHARE_OF_MEMORY:
        verdict = "no"
    return {
        "device": device.name,
        "precision": row["precision"],
        "frames_per_second": round(rate, 2),
        "bandwidth_share": round(share, 4),
        "memory_share": round(memory, 4),
        "verdict": verdict,
    }


def _show(console: "Console", rows: list[dict[str, Any]], fits: list[dict[str, Any]]) -> None:
    console.print(
        table(
            (
                "precision",
                ">weights GB/frame",
                ">cache GB/frame",
                ">codec GB/frame",
                ">GB/s",
                ">resident GB",
            ),
            (
                (
                    row["precision"],
                    *(f"{row[f'{key}_bytes'] / 1e9:.2f}" for key in ("weights", "cache", "codec")),
                    f"{row['bytes_per_second'] / 1e9:.1f}",
                    f"{row['resident_bytes'] / 1e9:.2f}",
                )
                for row in rows
            ),
        )
    )
    console.print(
        table(
            ("device", "precision", ">frames/s", ">of bandwidth", ">of memory", "verdict"),
            (
                (
                    one["device"],
                    one["precision"],
                    f"{one['frames_per_second']:.1f}",
                    f"{one['bandwidth_share']:.0%}",
                    f"{one['memory_share']:.0%}",
                    one["verdict"],
                )
                for one in fits
            ),
        )
    )
    console.print(f"{FRAME_RATE} frames a second are needed; shares are of the peak")
