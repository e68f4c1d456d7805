"""``edgekit build``: on the device, what could only be prepared elsewhere."""

from edgekit.cli.options import BundlePath, Json, Quiet
from edgekit.cli.output import Output, size
from edgekit.errors import UsageError


def command(bundle: BundlePath, json: Json = False, quiet: Quiet = False) -> None:
    """Build TensorRT engines for the GPU of this machine, from the bundle's recipe.

    Engines are cached by graph, library version and compute capability; `edgekit run` finds
    them there.
    """
    from edgekit.bundle import Bundle
    from edgekit.runtimes.tensorrt_build import build_on_device

    with Output(json, quiet) as out, Bundle.open(bundle) as opened:
        pairs = [
            (graph, artifact)
            for graph in opened.manifest.graphs
            for artifact in graph.artifacts
            if artifact.target == "tensorrt" and artifact.status == "ok"
        ]
        if not pairs:
            raise UsageError(
                f"the bundle {bundle} has nothing to build",
                "it has no TensorRT artifact",
                f"edgekit export {opened.manifest.model.source} --target tensorrt",
            )
        engines = []
        for graph, artifact in pairs:
            with out.status(f"Building {graph.name}"):
                path = build_on_device(opened, graph, artifact)
            engines.append({"graph": graph.name, "file": path, "bytes": path.stat().st_size})
        document = {"bundle": bundle, "engines": engines}

        def show(console: object) -> None:
            for engine in engines:
                console.print(f"{engine['graph']}: {engine['file']} ({size(engine['bytes'])})")

        out.result(document, show)
