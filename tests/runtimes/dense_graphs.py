"""Small networks whose answers are plain: the detector finds cells that are all one colour.

Pictures go in as they are (0 to 255, no mean): pooled over cells, then one linear layer.
"""

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekit.bundle import BundleWriter
from edgekit.manifest import Artifact, AxisRange, Graph, ModelInfo, TaskInfo, TensorSpec

COLOURS = ("red", "green", "blue")
PIXELS = {"mean": [0, 0, 0], "std": [1, 1, 1], "scale": 1.0}
LABELS = "assets/labels.txt"
STRIDES = (8, 16)
PLACE = 9  # anchors at a place: three ratios, three scales
SQUARE = 3  # of them, the smallest square: four strides wide
SURE = 4.0  # the logit of a cell that is wholly of a class' colour

# 1 for a channel of 255, minus the others: full for the pure colour, less for all else.
_PURE = (np.eye(3) * 2 - 1).astype(np.float32) / 255


class _Nodes:
    """Nodes and constants of a graph in the making."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, values):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, kind, *inputs, **attributes):
        name = attributes.pop("name", f"n{len(self.nodes)}")
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def pool(self, cell):
        size = [cell, cell]
        return self.node("AveragePool", "image", kernel_shape=size, strides=size, ceil_mode=1)

    def linear(self, cells, weight, bias, **options):
        """A 1 x 1 convolution; ``weight`` is (out, 3)."""
        weight = np.asarray(weight, np.float32)[:, :, None, None]
        return self.node(
            "Conv", cells, self.constant(weight), self.constant(np.float32(bias)), **options
        )

    def model(self, shape, outputs):
        graph = helper.make_graph(
            self.nodes,
            "dense",
            [helper.make_tensor_value_info("image", 1, shape)],
            [helper.make_tensor_value_info(name, 1, shape) for name, shape in outputs.items()],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        return model.SerializeToString()


def detector(height, width):
    """Per cell and anchor logits of three colours, and the correction that gives the cell.

    Only the smallest square anchor answers: others have logits of -9 and less.
    """
    made, levels = _Nodes(), {"class_logits": [], "box_deltas": []}
    bias = np.full((PLACE, 3), -20.0)
    bias[SQUARE] = -SURE
    # The anchor is 4 strides wide around the cell's corner: half a stride on, a quarter as wide.
    delta = np.tile([1 / 8, 1 / 8, -math.log(4), -math.log(4)], PLACE)
    for stride in STRIDES:
        cells = made.pool(stride)
        weights = {
            "class_logits": (np.tile(_PURE * 2 * SURE, (PLACE, 1)), bias.ravel()),
            "box_deltas": (np.zeros((4 * PLACE, 3)), delta),
        }
        for name, (weight, offset) in weights.items():
            last = made.node("Transpose", made.linear(cells, weight, offset), perm=[0, 2, 3, 1])
            shape = made.constant(np.array([1, -1, len(offset) // PLACE]))
            levels[name].append(made.node("Reshape", last, shape))
    for name, parts in levels.items():
        made.node("Concat", *parts, axis=1, name=name)
    count = "anchors"
    if isinstance(height, int) and isinstance(width, int):
        count = sum(-(-height // s) * -(-width // s) for s in STRIDES) * PLACE
    outputs = {"class_logits": (1, count, 3), "box_deltas": (1, count, 4)}
    return made.model((1, 3, height, width), outputs), outputs


def segmenter(height, width, stride=4):
    """Per cell the logits of three colours."""
    made = _Nodes()
    made.linear(made.pool(stride), _PURE, np.zeros(3), name="logits")
    sides = [
        -(-side // stride) if isinstance(side, int) else f"{side}_out" for side in (height, width)
    ]
    outputs = {"logits": (1, 3, *sides)}
    return made.model((1, 3, height, width), outputs), outputs


def pyramid(height, width):
    """Two feature maps: the picture's colours at strides 4 and 8."""
    made, outputs = _Nodes(), {}
    for stride in (4, 8):
        made.linear(made.pool(stride), np.eye(3), np.zeros(3), name=f"stride{stride}")
        outputs[f"stride{stride}"] = (1, 3, height // stride, width // stride)
    return made.model((1, 3, height, width), outputs), outputs


def dense_bundle(
    path: Path, kind, network, size, params=None, dynamic=None, labels=COLOURS
) -> Path:
    """A bundle for ONNX Runtime around one of these networks; ``size`` is (height, width)."""
    model, outputs = network(*size)
    file = "graphs/forward/onnx/model.onnx"
    merged = {**PIXELS, "resolution": [64, 64], **(params or {})}
    if labels and "labels" not in merged:
        merged["labels"] = LABELS
    graph = Graph(
        name="forward",
        inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 3, *size)),),
        outputs=tuple(
            TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in outputs.items()
        ),
        dynamic={
            axis: AxisRange(min=low, max=high) for axis, (low, high) in (dynamic or {}).items()
        },
        artifacts=(Artifact(target="onnx", status="ok", file=file, bytes=len(model)),),
    )
    with BundleWriter(path) as writer:
        writer.add(file, model)
        if labels:
            writer.add(LABELS, "\n".join(labels).encode())
        return writer.finish(
            {
                "model": ModelInfo(name=kind, source=kind, weights="by hand"),
                "task": TaskInfo(kind=kind, params=merged),
                "graphs": (graph,),
            }
        )
