"""A tiny real bundle, and the command line both in this process and in one of its own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import BundleWriter
from edgekit.cli import main

SIDE = 16
LABELS = ("red", "green", "blue", "grey")
CLASSIFICATION = {
    "resolution": SIDE,
    "resize": SIDE,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "labels": "assets/labels.txt",
    "top_k": 3,
}


@dataclass
class Finished:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """Standard output as one JSON document; NaN and Infinity are no JSON."""

        def refuse(name):
            raise ValueError(f"{name} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture
def edgekit(capfd):
    """Run a command in this process: ``edgekit("models", "--json").document``."""

    def run(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Finished(code, *capfd.readouterr())

    return run


@pytest.fixture
def program():
    """Run a command in a process of its own, as a user does."""

    def run(*arguments, **options):
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from edgekit.cli import main; sys.exit(main())"]
            + [str(argument) for argument in arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nothing of these tests lands in the user's own folders."""
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EDGEKIT_TRACEBACK", raising=False)


@pytest.fixture(scope="session")
def onnx_model() -> bytes:
    """A classifier of a picture's mean colour: (1, 3, 16, 16) to 4 logits."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = np.array([[4, -2, -2, 0], [-2, 4, -2, 0], [-2, -2, 4, 0]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", 1, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", 1, [1, 4])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def make_bundle(tmp_path, onnx_model):
    """Write a bundle around the tiny model: ``make_bundle(task="tensors", name="b.edgekit")``."""

    def make(
        task="classification", name="tiny", params=None, openvino=False, weights="by hand"
    ) -> Path:
        with BundleWriter(tmp_path / name) as writer:
            writer.add("graphs/forward/onnx/model.onnx", onnx_model)
            writer.add("assets/labels.txt", "\n".join(LABELS).encode())
            artifacts = [_artifact("onnx", "model.onnx", bytes=len(onnx_model))]
            if openvino:
                _write_ir(writer, onnx_model)
                artifacts.append(_artifact("openvino", "model.xml", "model.bin"))
            tensor = {"dtype": "float32"}
            graph = {
                "name": "forward",
                "inputs": [{"name": "image", "shape": [1, 3, SIDE, SIDE], **tensor}],
                "outputs": [{"name": "logits", "shape": [1, 4], **tensor}],
                "artifacts": artifacts,
            }
            return writer.finish(
                {
                    "model": {"name": "tiny", "source": "tiny", "weights": weights},
                    "task": {
                        "kind": task,
                        "params": CLASSIFICATION | (params or {})
                        if task == "classification"
                        else {},
                    },
                    "graphs": [graph],
                }
            )

    return make


@pytest.fixture
def bundle(make_bundle) -> Path:
    """The tiny classifier as a folder, for ONNX Runtime alone."""
    return make_bundle()


@pytest.fixture
def picture(tmp_path) -> Path:
    """A green picture."""
    from PIL import Image

    path = tmp_path / "green.png"
    Image.new("RGB", (40, 30), (10, 200, 10)).save(path)
    return path


def _artifact(target, file, *extra, **fields):
    folder = f"graphs/forward/{target}"
    metrics = {"max_abs": 1e-7, "rel_range": 1e-8, "nmse": 1e-15, "cosine": 1.0}
    return {
        "target": target,
        "status": "ok",
        "file": f"{folder}/{file}",
        "extra": [f"{folder}/{name}" for name in extra],
        "operators": {"ReduceMean": 1, "MatMul": 1},
        "verify": {"level": "ran", "passed": True, "metrics": metrics},
        **fields,
    }


def _write_ir(writer, onnx_model):
    openvino = pytest.importorskip("openvino")
    source = writer.root / "source.onnx"
    source.write_bytes(onnx_model)
    folder = writer.root / "graphs/forward/openvino"
    folder.mkdir()
    openvino.save_model(
        openvino.convert_model(source), folder / "model.xml", compress_to_fp16=False
    )
    source.unlink()
