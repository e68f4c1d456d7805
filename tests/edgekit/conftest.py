"""Small bundles, of which only the container matters."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.bundle import BundleWriter
from edgekit.manifest import Artifact, Graph, ModelInfo, TensorSpec

FILES = {
    "assets/labels.txt": b"cat\ndog\n",
    "graphs/forward/coreml/model.mlpackage/Data/weights.bin": bytes(range(256)) * 40,
    "graphs/forward/coreml/model.mlpackage/Manifest.json": b"{}",
    "graphs/forward/onnx/model.onnx": b"not really a graph" * 10,
}


def fields() -> dict:
    """A manifest for :data:`FILES`."""
    tensor = TensorSpec(name="x", dtype="float32", shape=(1, "n"))
    artifacts = (
        Artifact(target="onnx", status="ok", file="graphs/forward/onnx/model.onnx"),
        Artifact(target="coreml", status="ok", file="graphs/forward/coreml/model.mlpackage"),
    )
    graph = Graph(
        name="forward",
        inputs=(tensor,),
        outputs=(tensor.model_copy(update={"name": "y"}),),
        artifacts=artifacts,
    )
    model = ModelInfo(name="tiny", source="tiny", weights="none")
    return {"edgekit": "1.2.3", "model": model, "graphs": (graph,)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(name, files=…, report=…)`` makes a bundle in a fresh folder."""

    def make(name: str, files: dict[str, bytes] = FILES, report: str | None = "<p>1</p>") -> Path:
        with BundleWriter(tmp_path / name) as writer:
            for rel, data in files.items():
                writer.add(rel, data)
            return writer.finish(fields(), report=report)

    return make
