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

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Run a language model over several devices.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
cluster_serve.register(app)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face folder or a .gguf.")]
Nodes = Annotated[int, typer.Option("--nodes", "-n", min=1, help="How many devices.")]
Ratio = Annotated[
    str, typer.Option("--ratio", help="Each one's part, like 2:1:1:1; auto: equal parts.")
]
Precision = Annotated[
    str, typer.Option("--precision", "-p", help="Of the weights: fp32, bf16, int8 or int4.")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the parts go.")]


@app.command("split")
def split_command(
    model: Model,
    out: Out,
    nodes: Nodes = 1,
    ratio: Ratio = "auto",
    precision: Precision = "int8",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cut a language model into one part for each device.

    Heads and feed-forward are cut by the ratio. Rank 0, the hub, also has the embedding, the
    head and the tokenizer.
    """
    from edgekit.devices.cluster.split import split

    with Output(json, quiet) as output:
        parts = parse_ratio(ratio, nodes)
        with output.steps() as step:
            folders = split(model, out, parts, precision, step)
        document = {
            "model": model,
            "folder": str(out),
            "precision": precision,
            "ratio": parts,
            "ranks": [_rank(folder) for folder in folders],
        }
        output.result(document, lambda console: _show(console, document))


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
    console.print(
        table(
            (
                ">rank",
                ">heads",
                ">KV heads",
                ">feed-forward",
                ">weights MiB",
                ">file MiB",
                "sha256",
            ),
            (
                (
                    str(row["rank"]),
                    str(row["heads"]),
                    str(row["kv_heads"]),
                    str(row["feed_forward"]),
                    f"{row['resident_bytes'] / (1 << 20):.1f}",
                    f"{row['bytes'] / (1 << 20):.1f}",
                    row["sha256"][:16],
                )
                for row in document["ranks"]
            ),
        )
    )


app.command("plan")(plan_command)
