"""One tiny classifier as a real artifact of every runtime that runs here."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import BundleWriter
from edgekit.manifest import Artifact, DeviceHint, Graph, ModelInfo, TaskInfo, TensorSpec

from ..dart_micro import dart_bundle, dart_model, frames  # noqa: F401 -- fixtures

SIDE = 32
CLASSES = 4
RUNNING = ("onnxruntime", "openvino", "executorch")


@dataclasses.dataclass(frozen=True)
class Classifier:
    """relu(x) averaged over the picture, then a linear layer: easy to compute by hand."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0).mean((2, 3)) @ self.weight + self.bias


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    rng = np.random.default_rng(0)
    return Classifier(
        rng.standard_normal((3, CLASSES)).astype(np.float32),
        rng.standard_normal(CLASSES).astype(np.float32),
    )


@pytest.fixture(scope="session")
def onnx_bytes(classifier: Classifier) -> Callable[..., bytes]:
    """``onnx_bytes(batch)``: the classifier; a string as batch makes a dynamic axis."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def make(batch: int | str = 1) -> bytes:
        nodes = [
            helper.make_node("Relu", ["image"], ["r"]),
            helper.make_node("ReduceMean", ["r", "axes"], ["m"], keepdims=0),
            helper.make_node("Gemm", ["m", "weight", "bias"], ["logits"]),
        ]
        constants = {
            "axes": np.array([2, 3]),
            "weight": classifier.weight,
            "bias": classifier.bias,
        }
        graph = helper.make_graph(
            nodes,
            "classifier",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
            [numpy_helper.from_array(v, k) for k, v in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()

    return make


@pytest.fixture(scope="session")
def openvino_files(onnx_bytes, tmp_path_factory) -> dict[str, bytes]:
    import openvino

    folder = tmp_path_factory.mktemp("openvino")
    model = openvino.Core().read_model(io.BytesIO(onnx_bytes()))
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="session")
def pte_bytes(classifier: Classifier) -> bytes:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, CLASSES)
            self.linear.weight.data = torch.from_numpy(classifier.weight.T.copy())
            self.linear.bias.data = torch.from_numpy(classifier.bias)

        def forward(self, image):
            return self.linear(image.relu().mean((2, 3)))

    program = torch.export.export(Module().eval(), (torch.zeros(1, 3, SIDE, SIDE),))
    return (
        to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        .to_executorch()
        .buffer
    )


@pytest.fixture(scope="session")
def artifacts(request) -> Callable[[str], tuple[dict[str, bytes], Artifact]]:
    """``artifacts(runtime)``: the files and the manifest's entry of one runtime."""

    def make(runtime: str) -> tuple[dict[str, bytes], Artifact]:
        if runtime == "openvino":
            names = request.getfixturevalue("openvino_files")
            files = {f"graphs/forward/openvino/{name}": data for name, data in names.items()}
            main, extra = sorted(files, reverse=True)
            return files, Artifact(target=runtime, status="ok", file=main, extra=(extra,))
        if runtime == "executorch":
            file = "graphs/forward/executorch/model.pte"
            data = request.getfixturevalue("pte_bytes")
            return {file: data}, Artifact(target=runtime, status="ok", file=file)
        file = "graphs/forward/onnx/model.onnx"
        data = request.getfixturevalue("onnx_bytes")()
        return {file: data}, Artifact(target="onnx", status="ok", file=file)

    return make


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """``make_bundle(files, artifacts, …)`` around the classifier's contract."""

    def make(
        files: dict[str, bytes],
        *artifacts: Artifact,
        task: TaskInfo | None = None,
        name: str = "bundle",
        precision: str = "fp32",
        device: DeviceHint | None = None,
        **graph: object,
    ) -> Path:
        contract = {
            "name": "forward",
            "inputs": (TensorSpec(name="image", dtype="float32", shape=(1, 3, SIDE, SIDE)),),
            "outputs": (TensorSpec(name="logits", dtype="float32", shape=(1, CLASSES)),),
        }
        with BundleWriter(tmp_path / name) as writer:
            for rel, data in files.items():
                writer.add(rel, data)
            return writer.finish(
                {
                    "model": ModelInfo(name="tiny", source="tiny.py:net", weights="random"),
                    "task": task or TaskInfo(),
                    "precision": precision,
                    "device": device,
                    "graphs": (Graph(**{**contract, **graph}, artifacts=artifacts),),
                }
            )

    return make


@pytest.fixture
def runtime_bundle(make_bundle, artifacts) -> Callable[..., Path]:
    """``runtime_bundle("onnxruntime", …)``: a bundle for these runtimes."""

    def make(*runtimes: str, **options: object) -> Path:
        files, entries = {}, []
        for runtime in runtimes:
            some, entry = artifacts(runtime)
            files |= some
            entries.append(entry)
        files |= options.pop("files", {})
        return make_bundle(files, *entries, **options)

    return make


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
