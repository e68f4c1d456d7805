"""A small real bundle, which carries PyTorch's answers as far as its device can tell."""

from pathlib import Path

import numpy as np

from edgekit.bundle import BundleWriter
from edgekit.export.reference import Reference, save_reference
from edgekit.export.samples import Sample

SIDE = 8
BALLAST = 1 << 21  # bytes that make a bundle large enough to be cut off
_FILE = "graphs/forward/onnx/model.onnx"


def gain_bundle(folder: Path, gain: int, wrong: bool = False) -> Path:
    """A network for ONNX Runtime that multiplies by ``gain``; its answers lie if ``wrong``."""
    place = folder / f"gain-{gain}"
    if place.exists():
        return place
    x = np.linspace(-1, 1, SIDE, dtype=np.float32)[None]
    answer = x * (gain + 1 if wrong else gain)
    spec = {"dtype": "float32", "shape": [1, SIDE]}
    graph = {
        "name": "forward",
        "inputs": [{"name": "x", **spec}],
        "outputs": [{"name": "y", **spec}],
        "reference": "verify/forward.safetensors",
        "artifacts": [{"target": "onnx", "status": "ok", "file": _FILE}],
    }
    with BundleWriter(place) as writer:
        writer.add(_FILE, _multiply(gain))
        writer.add("assets/ballast.bin", np.random.default_rng(gain).bytes(BALLAST))
        reference = Reference((Sample("a line", {"x": x}),), ({"y": answer},))
        save_reference(reference, writer.root / "verify/forward.safetensors")
        model = {"name": f"gain {gain}", "source": "gain.py:net", "weights": "said"}
        return writer.finish({"model": model, "graphs": [graph]})


def _multiply(gain: int) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "gain"], ["y"])],
        "gain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, SIDE])],
        [numpy_helper.from_array(np.float32(gain), "gain")],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def colour_bundle(folder: Path) -> Path:
    """A classifier for ONNX Runtime: which of red, green and blue a picture has most of."""
    from onnx import TensorProto, helper

    place, shape = folder / "colours", [1, 3, SIDE, SIDE]
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)],
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 13)]
    content = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    described = {
        "name": "forward",
        "inputs": [{"name": "x", "dtype": "float32", "shape": shape}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 3]}],
        "reference": "verify/forward.safetensors",
        "artifacts": [{"target": "onnx", "status": "ok", "file": _FILE}],
    }
    task = {"resolution": SIDE, "top_k": 3, "labels": "assets/labels.txt"}
    with BundleWriter(place) as writer:
        writer.add(_FILE, content)
        writer.add("assets/labels.txt", b"red\ngreen\nblue\n")
        reference = Reference((Sample("noise", {"x": x}),), ({"y": x.mean((2, 3))},))
        save_reference(reference, writer.root / "verify/forward.safetensors")
        model = {"name": "colours", "source": "colours.py:net", "weights": "none"}
        kind = {"kind": "classification", "params": task}
        return writer.finish({"model": model, "graphs": [described], "task": kind})


def colour_detector(folder: Path) -> Path:
    """A detector for ONNX Runtime with classes of its own: one box, of the colour that it has."""
    from onnx import TensorProto, helper, numpy_helper

    place, shape = folder / "coloured", [1, 3, SIDE, SIDE]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Reshape", ["mean", "shape"], ["class_logits"]),
            helper.make_node("Identity", ["still"], ["box_deltas"]),
        ],
        "coloured",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("class_logits", TensorProto.FLOAT, [1, 1, 3]),
            helper.make_tensor_value_info("box_deltas", TensorProto.FLOAT, [1, 1, 4]),
        ],
        [
            numpy_helper.from_array(np.array([1, 1, 3]), "shape"),
            numpy_helper.from_array(np.zeros((1, 1, 4), np.float32), "still"),
        ],
    )
    opsets = [helper.make_opsetid("", 13)]
    content = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    described = {
        "name": "forward",
        "inputs": [{"name": "x", "dtype": "float32", "shape": shape}],
        "outputs": [
            {"name": "class_logits", "dtype": "float32", "shape": [1, 1, 3]},
            {"name": "box_deltas", "dtype": "float32", "shape": [1, 1, 4]},
        ],
        "artifacts": [{"target": "onnx", "status": "ok", "file": _FILE}],
    }
    # One level of one anchor, larger than the picture.
    anchors = {"strides": [SIDE], "scales_per_octave": 1, "ratios": [1.0]}
    task = {"resolution": SIDE, "anchors": anchors, "labels": "assets/labels.txt"}
    with BundleWriter(place) as writer:
        writer.add(_FILE, content)
        writer.add("assets/labels.txt", b"red\ngreen\nblue\n")
        model = {"name": "coloured", "source": "coloured.py:net", "weights": "none"}
        kind = {"kind": "detection", "params": task}
        return writer.finish({"model": model, "graphs": [described], "task": kind})
