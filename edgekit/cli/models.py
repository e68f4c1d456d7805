"""``edgekit models``: the registry, as a table."""

from typing import TYPE_CHECKING

from edgekit.cli.options import Json, Quiet
from edgekit.cli.output import Output, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgekit.models.spec import ModelSpec


def command(json: Json = False, quiet: Quiet = False) -> None:
    """List the models that edgekit knows by name.

    Any other PyTorch model can be exported as well: PATH.py:CALLABLE, timm:NAME,
    hf:FOLDER, a .pt2, an .onnx or a .gguf file.
    """
    from edgekit import models

    with Output(json, quiet) as out:
        rows = [_row(models.spec(name)) for name in models.names()]
        out.result({"models": rows}, lambda console: _show(console, rows))


def _row(spec: "ModelSpec") -> dict:
    return {
        "name": spec.name,
        "task": spec.task.kind,
        "parameters": spec.parameters,
        "macs": spec.macs,
        "heads": list(spec.heads),
        "graphs": [graph.name for graph in spec.graphs],
        "inputs": {
            graph.name: {tensor.name: list(tensor.shape) for tensor in graph.inputs}
            for graph in spec.graphs
        },
        "default_weights": spec.default_weights is not None,
        "paper": spec.paper,
        "licence": spec.licence,
    }


def _show(console: "Console", rows: list[dict]) -> None:
    console.print(_table(rows))
    endings: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        endings.setdefault(tuple(row["heads"][1:]), []).append(row["name"])
    for heads, names in endings.items():
        if heads:
            console.print(f"--head {', '.join(heads)}: {', '.join(names)}")


def _table(rows: list[dict]) -> "Table":
    return table(
        ("name", "task", ">M params", ">M MACs", "graphs", "weights", "paper"),
        (
            (
                row["name"],
                row["task"],
                f"{row['parameters'] / 1e6:.2f}",
                "" if row["macs"] is None else f"{row['macs'] / 1e6:.0f}",
                ", ".join(row["graphs"]),
                "pretrained" if row["default_weights"] else "--weights",
                row["paper"],
            )
            for row in rows
        ),
    )
