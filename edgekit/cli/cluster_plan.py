"""``edgekit cluster plan``: what a cluster would take and do, worked out before it is built."""

import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.options import Json, Quiet
from edgekit.cli.output import Output, table
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.devices.cluster.balance import Node
    from edgekit.devices.cluster.language import Language
    from edgekit.devices.cluster.plan import Prediction, Setup
    from edgekit.devices.cluster.simulate import Link

_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_BITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}

ModelName = Annotated[
    str, typer.Option("--model", help="llama-2-70b, …, a Hugging Face folder or a .gguf.")
]
Nodes = Annotated[int | None, typer.Option("--nodes", "-n", min=1, help="How many devices.")]
Ratio = Annotated[
    str, typer.Option("--ratio", help="Each one's part; auto: by --devices, without it equal.")
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="NAME,…",
        help="One a rank, of edgekit devices or files of its probe: memory, bandwidth and disk.",
    ),
]
Precision = Annotated[str, typer.Option("--precision", "-p", help="fp32, bf16, int8 or int4.")]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", help="Of each device's process, like 3GB (4GB); or one each: 3GB,1GB."
    ),
]
LinkText = Annotated[
    str, typer.Option("--link", help="One-way latency and bandwidth, like 1ms,1Gbit.")
]
Disk = Annotated[str | None, typer.Option("--disk", help="What a device reads, like 1GB/s.")]
Bandwidth = Annotated[
    str | None,
    typer.Option("--bandwidth", help="Of a device's memory, as programs reach it: 15GB/s."),
]
Context = Annotated[int, typer.Option("--context", min=1, help="Tokens the cache has room for.")]
Prompt = Annotated[int, typer.Option("--prompt", min=1, help="Tokens before the first new one.")]
Wire = Annotated[str, typer.Option("--wire", help="Activations on the link: fp32 or fp16.")]


def plan_command(
    model: ModelName,
    nodes: Nodes = None,
    devices: Devices = None,
    memory: Memory = None,
    link: LinkText = "1ms,1Gbit",
    disk: Disk = None,
    precision: Precision = "int8",
    ratio: Ratio = "auto",
    bandwidth: Bandwidth = None,
    context: Context = 2048,
    prompt: Prompt = 64,
    wire: Wire = "fp32",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict memory and time of a cluster, say what bounds it and what would help.

    Nothing is measured: the figures of the devices are those that are given, or of their profiles.
    """
    from edgekit.devices.cluster.packing import PRECISIONS
    from edgekit.devices.cluster.plan import Setup, alternatives, predict
    from edgekit.devices.cluster.simulate import Device

    with Output(json, quiet) as out:
        if precision not in PRECISIONS:
            raise UsageError(f"no precision {precision!r}", f"there is {', '.join(PRECISIONS)}")
        if wire not in ("fp32", "fp16"):
            raise UsageError(f"no --wire {wire!r}", "there is fp32 and fp16")
        language = _language(model)
        ranks = _ranks(devices, nodes, memory, disk, bandwidth)
        parts = _parts(out, language, ranks, ratio, devices is not None, precision, context)
        setup = Setup(
            language,
            precision,
            parts,
            tuple(one.memory for one in ranks),
            tuple(Device(one.disk, one.bandwidth) for one in ranks),
            parse_link(link),
            context,
            prompt,
            4 if wire == "fp32" else 2,
        )
        found, others = predict(setup), alternatives(setup)
        document = {"model": model, "nodes": len(ranks), "precision": precision}
        document |= {"ratio": list(parts), "devices": [asdict(one) for one in ranks]}
        document |= found.document()
        document["alternatives"] = {
            name: {"error": one} if isinstance(one, str) else one.document()
            for name, one in others.items()
        }
        out.result(document, lambda console: _show(console, setup, found, others))


def _language(text: str) -> "Language":
    from edgekit.devices.cluster import layout
    from edgekit.devices.cluster.checkpoint import open_checkpoint

    if text in layout.known() or ("/" not in text and not text.endswith(".gguf")):
        return layout.language_of(text)
    return open_checkpoint(text).language


def _ranks(
    devices: str | None,
    nodes: int | None,
    memory: str | None,
    disk: str | None,
    bandwidth: str | None,
) -> "list[Node]":
    """Every rank's figures: of the options, else of the profiles, else as usual."""
    from edgekit.cli.cluster import nodes_of_devices
    from edgekit.devices.cluster.balance import BANDWIDTH, DISK, Node
    from edgekit.devices.cluster.memory import parse_size

    if devices is not None:
        ranks = list(nodes_of_devices(devices, nodes))
    else:
        usual = Node("a device", 4 * 10**9, BANDWIDTH, "assumed", DISK, "assumed")
        ranks = [usual] * (nodes or 1)
    given: dict[str, Any] = {}
    if disk is not None:
        given |= {"disk": _rate(disk), "disk_from": "given"}
    if bandwidth is not None:
        given |= {"bandwidth": _rate(bandwidth), "bandwidth_from": "given"}
    ranks = [replace(one, **given) for one in ranks]
    if memory is None:
        return ranks
    sizes = [parse_size(part) for part in memory.split(",")]
    if len(sizes) not in (1, len(ranks)):
        raise UsageError(f"--memory names {len(sizes)} devices, not {len(ranks)}")
    sizes = sizes * len(ranks) if len(sizes) == 1 else sizes
    return [replace(one, memory=size) for one, size in zip(ranks, sizes, strict=True)]


def _parts(
    out: Output,
    language: "Language",
    ranks: "list[Node]",
    ratio: str,
    known: bool,
    precision: str,
    context: int,
) -> tuple[float, ...]:
    """The ratio that is given, or what fits the devices; equal parts if nobody said which."""
    from edgekit.cli.cluster import parse_ratio
    from edgekit.devices.cluster.balance import balance

    if ratio != "auto" or not known:
        return tuple(parse_ratio(ratio, len(ranks)))
    found = balance(language, ranks, precision, context)
    for note in found.notes:
        out.note(note)
    return found.ratio


def _rate(text: str) -> float:
    """Bytes a second of ``1GB/s``."""
    from edgekit.devices.cluster.memory import parse_size

    return float(parse_size(text.removesuffix("/s")))


def parse_link(text: str) -> "Link":
    """``1ms,1Gbit``: one-way latency and bandwidth.

    Raises:
        UsageError: it is no such pair.
    """
    from edgekit.devices.cluster.simulate import Link

    found = re.fullmatch(r"([\d.]+)(us|ms|s),([\d.]+)([kMG]?)bit(?:/s)?", text.strip(), re.I)
    try:
        latency = float(found[1]) * _TIMES[found[2].lower()]
        bandwidth = float(found[3]) * _BITS[found[4].lower()] / 8
        if bandwidth <= 0:
            raise ValueError
    except (TypeError, ValueError):
        raise UsageError(f"{text!r} is no link", "", "write it like 1ms,1Gbit") from None
    return Link(latency, bandwidth)


def _show(
    console: "Console",
    setup: "Setup",
    found: "Prediction",
    others: "dict[str, Prediction | str]",
) -> None:
    whole = sum(setup.ratio)
    rows = zip(found.peaks, found.resident, found.streamed, strict=True)
    console.print(
        table(
            (">rank", ">part", ">peak MB", ">weights in memory MB", ">read for a token MB"),
            (
                (rank, f"{setup.ratio[rank] / whole:.1%}", *(f"{size / 1e6:.0f}" for size in row))
                for rank, row in enumerate(rows)
            ),
        )
    )
    console.print(
        f"first token after {found.first_seconds:.3g} s ({setup.prompt} tokens before it)"
    )
    console.print(
        f"a token takes {found.token.seconds:.3g} s; it is bound by {found.bound_by},"
        f" without which it would take {found.token.seconds - found.saves[found.bound_by]:.3g} s"
    )
    for name, one in others.items():
        text = one if isinstance(one, str) else f"{one.token.seconds:.3g} s a token"
        console.print(f"with {name}: {text}")
