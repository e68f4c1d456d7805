"""``edgekit cluster …``: a language model over several devices."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli import cluster_serve
from edgekit.cli.cluster_plan import plan_command
from edgekit.cli.options import Json, Quiet
from edgekit.cli.output import Output, table
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgekit.devices.cluster.balance import Balance, Node

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Run a language model over several devices.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
cluster_serve.register(app)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face folder or a .gguf.")]
Nodes = Annotated[int | None, typer.Option("--nodes", "-n", min=1, help="How many devices.")]
Ratio = Annotated[
    str,
    typer.Option(
        "--ratio", help="Each one's part, like 2:1:1:1; auto: by --devices, without it equal."
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="NAME,…",
        help="One a rank, rank 0 first: of edgekit devices, or files of its probe.",
    ),
]
Context = Annotated[
    int, typer.Option("--context", min=1, help="Tokens whose keys and values are to fit, too.")
]
Precision = Annotated[
    str, typer.Option("--precision", "-p", help="Of the weights: fp32, bf16, int8 or int4.")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the parts go.")]


@app.command("split")
def split_command(
    model: Model,
    out: Out,
    nodes: Nodes = None,
    ratio: Ratio = "auto",
    devices: Devices = None,
    precision: Precision = "int8",
    context: Context = 2048,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cut a language model into one part for each device.

    Heads and feed-forward are cut by the ratio, or by what the devices can do. Rank 0, the hub,
    also has the embedding, the head and the tokenizer.
    """
    from edgekit.devices.cluster.split import split

    with Output(json, quiet) as output:
        found = None
        if devices is not None:
            if ratio != "auto":
                raise UsageError("--devices decides the ratio", "and --ratio gives another")
            found = _balance(model, nodes_of_devices(devices, nodes), precision, context)
        elif ratio == "auto" and (nodes or 1) > 1:
            output.note("equal parts; --devices makes them fit what each device can do")
        parts = list(found.ratio) if found else parse_ratio(ratio, nodes or 1)
        for note in found.notes if found else ():
            output.note(note)
        with output.steps() as step:
            folders = split(model, out, parts, precision, step)
        document = {
            "model": model,
            "folder": str(out),
            "precision": precision,
            "ratio": parts,
            "ranks": [_rank(folder) for folder in folders],
        }
        if found:
            document["notes"] = list(found.notes)
            for row, part in zip(document["ranks"], found.parts, strict=True):
                row |= part.document()
        output.result(document, lambda console: _show(console, document))


def nodes_of_devices(text: str, nodes: int | None) -> "tuple[Node, ...]":
    """The devices of ``rpi5,probed.toml``, one a rank.

    Raises:
        UsageError: no such device, a graphics card, or not as many as ``nodes``.
        InputError: a file is no profile.
    """
    from edgekit.devices.cluster.balance import nodes_of
    from edgekit.devices.profiles import profile

    names = [name.strip() for name in text.split(",")]
    if nodes is not None and nodes != len(names):
        raise UsageError(f"--devices names {len(names)} devices, and --nodes says {nodes}")
    return nodes_of([profile(name) for name in names])


def _balance(model: str, nodes: "tuple[Node, ...]", precision: str, context: int) -> "Balance":
    from edgekit.devices.cluster.balance import balance
    from edgekit.devices.cluster.checkpoint import open_checkpoint
    from edgekit.devices.cluster.packing import PRECISIONS

    if precision not in PRECISIONS:
        raise UsageError(f"no precision {precision!r}", f"there is {', '.join(PRECISIONS)}")
    return balance(open_checkpoint(model).language, nodes, precision, context)


def parse_ratio(text: str, nodes: int) -> list[float]:
    """``2:1:1`` as numbers, one for each node.

    Raises:
        UsageError: it is no ratio, or of another number of nodes.
    """
    if text == "auto":
        return [1.0] * nodes
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        raise UsageError(f"{text!r} is no ratio", "", "write it like 2:1:1, or auto") from None
    if len(parts) != nodes:
        raise UsageError(f"the ratio {text} is of {len(parts)} devices, not of {nodes}")
    return parts


def _rank(folder: Path) -> dict[str, Any]:
    from edgekit.devices.cluster.shard import read_shard

    shard = read_shard(folder)
    heads, kv_heads, columns = shard.share.sizes
    return {
        "rank": shard.rank,
        "folder": str(folder),
        "heads": heads,
        "kv_heads": kv_heads,
        "feed_forward": columns,
        "bytes": shard.bytes,
        "resident_bytes": sum(block.bytes for block in shard.blocks),
        "sha256": shard.sha256,
    }


def _show(console: "Console", document: dict[str, Any]) -> None:
    columns = (">heads", ">KV heads", ">feed-forward", ">weights MiB", ">file MiB", "sha256")
    rows = [
        (
            row["heads"],
            row["kv_heads"],
            row["feed_forward"],
            f"{row['resident_bytes'] / (1 << 20):.1f}",
            f"{row['bytes'] / (1 << 20):.1f}",
            row["sha256"][:16],
        )
        for row in document["ranks"]
    ]
    ranks = document["ranks"]
    console.print(table((">rank", *columns), [(i, *row) for i, row in enumerate(rows)]))
    if "notes" in document:
        console.print(why_table(ranks))


def why_table(rows: list[dict[str, Any]]) -> "Table":
    """Each device's part and what decided it, from :meth:`.balance.Part.document`."""
    return table(
        (">rank", "device", ">part", ">process MB", ">usable MB", "decided by"),
        [
            (
                rank,
                row["device"],
                f"{row['part']:.1%}",
                f"{row['needed_bytes'] / 1e6:.0f}",
                f"{row['memory_bytes'] / 1e6:.0f}",
                row["why"],
            )
            for rank, row in enumerate(rows)
        ],
    )


app.command("plan")(plan_command)
