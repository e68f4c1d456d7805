"""``edgekit inspect``: what a bundle holds, every byte of it checked."""

from typing import TYPE_CHECKING, Any

from edgekit.cli.options import BundlePath, Json, Quiet
from edgekit.cli.output import Output, size, table

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.bundle import Bundle
    from edgekit.manifest import Artifact, DeviceHint, Graph, Manifest, TensorSpec

OPERATORS_SHOWN = 12


def command(bundle: BundlePath, json: Json = False, quiet: Quiet = False) -> None:
    """Show what a bundle holds: graphs, operators, sizes and verification figures.

    Every file is read and compared with its checksum first.
    """
    from edgekit.bundle import Bundle

    with Output(json, quiet) as out, Bundle.open(bundle) as opened:
        with out.status("Checking every file"):
            opened.check_all()
        out.result(_document(opened), lambda console: _show(console, opened))


def _document(bundle: "Bundle") -> dict[str, Any]:
    return {
        "bundle": bundle.path,
        "digest": bundle.digest,
        "bytes": sum(entry.bytes for entry in bundle.manifest.files),
        "checksums": "ok",  # or there would be an error instead of a document
        **bundle.manifest.model_dump(mode="json"),
    }


def _show(console: "Console", bundle: "Bundle") -> None:
    manifest = bundle.manifest
    model = manifest.model
    total = sum(entry.bytes for entry in manifest.files)
    facts = {
        "model": f"{model.name} ({model.source})",
        "weights": model.weights,
        "parameters": f"{model.parameters / 1e6:.2f} M",
        "MACs": f"{model.macs / 1e6:.0f} M" if model.macs else None,
        "paper": model.paper,
        "licence": model.licence,
        "task": manifest.task.kind,
        "precision": manifest.precision + (" (drift allowed)" if manifest.drift_allowed else ""),
        "made for": _device(manifest.device) if manifest.device else None,
        "accuracy": _accuracy(manifest),
        "files": f"{len(manifest.files)}, {size(total)}, every checksum right",
        "digest": bundle.digest,
        "made with": ", ".join(
            f"{name} {version}"
            for name, version in {"edgekit": manifest.edgekit, **manifest.tools}.items()
        ),
    }
    for name, value in facts.items():
        if value:
            console.print(f"{name + ':':12s}{value}")
    for graph in manifest.graphs:
        _show_graph(console, graph)


def _accuracy(manifest: "Manifest") -> str | None:
    """Top-1 of PyTorch and of each artifact, on what."""
    found = manifest.evaluation
    if found is None:
        return None
    figures = [("PyTorch", found.pytorch)]
    figures += [(a.target, a.accuracy) for graph in manifest.graphs for a in graph.artifacts]
    said = ", ".join(f"{name} {one.top1:.2f} %" for name, one in figures if one)
    return f"{said} (top-1 on {found.pytorch.samples:,} pictures of {found.dataset})"


def _device(hint: "DeviceHint") -> str:
    threads = f", {hint.threads} threads" if hint.threads else ""
    return f"{hint.name}: {', '.join(hint.runtimes)}{threads}"


def _show_graph(console: "Console", graph: "Graph") -> None:
    console.print(f"\ngraph {graph.name}: {_tensors(graph.inputs)} -> {_tensors(graph.outputs)}")
    for name, limits in graph.dynamic.items():
        console.print(f"  {name} = {limits.min}..{limits.max}")
    for pair in graph.states:
        console.print(f"  state {pair.output} -> {pair.input}")
    console.print(
        table(
            (
                "target",
                "status",
                "level",
                ">NMSE",
                ">cosine",
                ">rel. range",
                "computes in",
                ">size",
            ),
            (_artifact_row(artifact) for artifact in graph.artifacts),
        )
    )
    for artifact in graph.artifacts:
        if artifact.reason:
            console.print(f"  {artifact.target}: {artifact.reason}")
        if artifact.operators:
            console.print(f"  {artifact.target} operators: {_histogram(artifact.operators)}")


def _artifact_row(artifact: "Artifact") -> tuple:
    check = artifact.verify
    figures = ("", "", "")
    if check is not None and check.metrics is not None:
        m = check.metrics
        figures = (f"{m.nmse:.1e}", f"{m.cosine:.9f}", f"{m.rel_range:.1e}")
    status = artifact.status
    if check is not None and artifact.status == "ok" and not check.passed:
        status = "drifted"
    return (
        artifact.target,
        status,
        check.level if check else "",
        *figures,
        artifact.effective_precision or artifact.precision,
        size(artifact.bytes),
    )


def _tensors(specs: "tuple[TensorSpec, ...]") -> str:
    return ", ".join(f"{s.name} {s.dtype}[{', '.join(map(str, s.shape))}]" for s in specs)


def _histogram(operators: dict[str, int]) -> str:
    ordered = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} {count}" for name, count in ordered[:OPERATORS_SHOWN])
    rest = len(ordered) - OPERATORS_SHOWN
    return f"{shown}, and {rest} other kinds" if rest > 0 else shown
