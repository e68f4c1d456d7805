"""A lidar detector without training, small enough for tests, as a bundle of two runtimes.

Things are what stands on flat ground at z = 0: the columns of a grid that hold something are
gathered in windows, and the second moments of a window's columns give a box its sides and its
heading. No weights, and yet its boxes stand where things are.
"""

from pathlib import Path

import numpy as np
import pytest

CELL, WINDOW, MOST = 0.5, 11, 64  # metres, columns, boxes
FLOOR, CEILING = 0.25, 3.6  # metres between which points belong to things
LABELS = ("vehicle", "pedestrian", "cyclist")
OUTPUTS = {
    "scores": ["k", 1],
    "boxes": ["k", 10],
    "iou": ["k", 1],
    "classes": ["k"],
    "cells": ["k"],
}


def _network(reach: float) -> bytes:
    """The network, written in ONNX's operators."""
    pytest.importorskip("onnxscript")
    from onnxscript import FLOAT, INT64, opset18, script

    op, side, half = opset18, round(2 * reach / CELL), WINDOW // 2
    steps = np.arange(-half, half + 1, dtype=np.float32) * CELL
    y, x = np.meshgrid(steps, steps, indexing="ij")
    moments = np.stack([x * 0 + 1, x, y, x * x, y * y, x * y])[:, None]
    kernel = _tensor(moments.astype(np.float32), "kernel")
    grid = _tensor(np.zeros(side * side, np.float32), "grid")
    square = _tensor(np.array([1, 1, side, side]), "square")
    flat, most, row = _tensor([-1], "flat"), _tensor([MOST], "most"), _tensor([6, -1], "row")
    last, spread = float(side - 1), CELL**2 / 12  # of the points within a column

    @script(default_opset=opset18)
    def standing(points):
        px, py, pz, _, _ = op.Split(points, num_outputs=5, axis=1)
        column = op.Clip(op.Floor((px + reach) / CELL), 0.0, last)
        line = op.Clip(op.Floor((py + reach) / CELL), 0.0, last)
        where = op.Cast(line * (last + 1.0) + column, to=7)
        tops = op.Where(op.And(pz > FLOOR, pz < CEILING), pz, 0.0)
        top = op.ScatterND(
            op.Constant(value=grid),
            where,
            op.Reshape(tops, op.Constant(value=flat)),
            reduction="max",
        )
        top = op.Reshape(top, op.Constant(value=square))
        held = op.Cast(top > 0.0, to=1)
        sums = op.Conv(held, op.Constant(value=kernel), pads=[half, half, half, half])
        n, sx, sy, _, _, _ = op.Split(sums, num_outputs=6, axis=1)
        # Where windows hold equally much, the one that is centred better.
        score = n - 0.1 * op.Sqrt(sx * sx + sy * sy)
        best = op.MaxPool(score, kernel_shape=[WINDOW, WINDOW], pads=[half, half, half, half])
        peak = op.Cast(op.And(op.Equal(score, best), n > 1.0), to=1)
        flattened = op.Reshape(score * peak, op.Constant(value=flat))
        value, cells = op.TopK(flattened, op.Constant(value=most))
        picked = op.Gather(op.Reshape(sums, op.Constant(value=row)), cells, axis=1)
        count, x, y, xx, yy, xy = op.Split(picked, num_outputs=6, axis=0)
        count = op.Max(count, 1.0)
        x, y = x / count, y / count
        xx, yy = xx / count - x * x + spread, yy / count - y * y + spread
        xy = xy / count - x * y
        turn = op.Max(op.Sqrt((xx - yy) * (xx - yy) / 4.0 + xy * xy), 1e-6)
        double = op.Clip((xx - yy) / 2.0 / turn, -1.0, 1.0)
        cosine = op.Sqrt((1.0 + double) / 2.0)
        sine = op.Sqrt((1.0 - double) / 2.0) * op.Where(xy < 0.0, -1.0, 1.0)
        length = op.Sqrt(12.0 * ((xx + yy) / 2.0 + turn))
        width = op.Sqrt(12.0 * op.Max((xx + yy) / 2.0 - turn, spread))
        tallest = op.MaxPool(top, kernel_shape=[WINDOW, WINDOW], pads=[half, half, half, half])
        height = op.Gather(op.Reshape(tallest, op.Constant(value=flat)), cells, axis=0)
        height = op.Unsqueeze(height, 0)
        number = op.Unsqueeze(op.Cast(cells, to=1), 0)
        line = op.Floor(number / (last + 1.0))
        x = (number - line * (last + 1.0) + 0.5) * CELL - reach + x
        y = (line + 0.5) * CELL - reach + y
        # All of them drive ahead at 3 m/s, for what it is worth.
        sides = op.Concat(x, y, height / 2.0, length, width, height, axis=0)
        moves = op.Concat(cosine, sine, 3.0 * cosine, 3.0 * sine, axis=0)
        boxes = op.Transpose(op.Concat(sides, moves, axis=0), perm=[1, 0])
        scores = op.Unsqueeze(op.Max(value / (value + 4.0), 0.0), 1)
        kind = op.Where(length > 2.4, 0, op.Where(length > 1.2, 2, 1))
        classes = op.Reshape(kind, op.Constant(value=flat))
        return scores, boxes, scores * 0.0 + 1.0, classes, cells

    column, rows = INT64["k"], FLOAT["k", 1]
    proto = standing.to_model_proto(
        ir_version=9,
        input_types=[FLOAT["p", 5]],
        output_types=[rows, FLOAT["k", 10], rows, column, column],
    )
    for value, name in zip(proto.graph.output, OUTPUTS, strict=True):
        _rename(proto.graph, value.name, name)
    return proto.SerializeToString()


def _tensor(values, name: str):
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(values), name)


def _rename(graph, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in graph.output:
        value.name = new if value.name == old else value.name


def _params(reach: float) -> dict:
    side = 2 * reach
    return {
        "columns": ["x", "y", "z", "intensity", "time"],
        "layout": {
            "point_range": [-reach, -reach, -3.0, reach, reach, 5.0],
            "voxel_size": [CELL, CELL, 8.0],
            "set_size": 36,
            "windows": [[12, 12, 1]],
            "window_factor": [2, 2, 1],
            "shift": [6, 6, 0],
            "map_strides": [[1]],
            "upsample": [1.0],
        },
        "head": "center",
        "score_threshold": 0.1,
        "limits": [-side, -side, -10.0, side, side, 10.0],
        "overlap_exponents": [0.0] * len(LABELS),
        "suppression": {"thresholds": [0.2] * len(LABELS)},
        "labels": "assets/labels.txt",
        "show_threshold": 0.3,
    }


def write_bundle(path: Path, reach: float = 48.0, openvino: bool = True) -> Path:
    """The detector for a range of ±``reach`` m."""
    from edgekit.bundle import BundleWriter

    content = _network(reach)
    with BundleWriter(path) as writer:
        file = "graphs/whole/onnx/model.onnx"
        writer.add(file, content)
        writer.add("assets/labels.txt", "".join(f"{label}\n" for label in LABELS).encode())
        artifacts = [{"target": "onnx", "file": file, "bytes": len(content)}]
        if openvino:
            artifacts.append(_openvino(writer, file))
        integers = ("classes", "cells")
        graph = {
            "name": "whole",
            "inputs": [{"name": "points", "shape": ["p", 5], "dtype": "float32"}],
            "outputs": [
                {"name": name, "shape": shape, "dtype": "int64" if name in integers else "float32"}
                for name, shape in OUTPUTS.items()
            ],
            "dynamic": {"p": {"min": 1, "max": 1 << 18}},
            "artifacts": [one | {"status": "ok"} for one in artifacts],
        }
        model = {"name": "standing-things", "source": "standing-things", "weights": "by hand"}
        task = {"kind": "lidar-detection", "params": _params(reach)}
        writer.finish({"model": model, "task": task, "graphs": [graph]})
    return path


def _openvino(writer, source: str) -> dict:
    openvino = pytest.importorskip("openvino")
    folder = writer.root / "graphs/whole/openvino"
    folder.mkdir()
    converted = openvino.convert_model(writer.root / source)
    openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)
    files = [f"graphs/whole/openvino/model.{suffix}" for suffix in ("xml", "bin")]
    return {"target": "openvino", "file": files[0], "extra": files[1:]}


@pytest.fixture(scope="session")
def lidar_bundle(tmp_path_factory) -> Path:
    """For ONNX Runtime and OpenVINO."""
    return write_bundle(tmp_path_factory.mktemp("lidar") / "standing")


def save_sweeps(folder: Path, count: int, rings: int = 32, steps: int = 900) -> list[Path]:
    """The beginning of a made-up drive, as files of rows of four numbers."""
    from edgekit.runtimes.synthetic_sweep import synthetic_drive

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"sweep{number}.bin" for number in range(count)]
    for number, path in enumerate(paths):
        np.ascontiguousarray(synthetic_drive(number, rings, steps)[:, :4]).tofile(path)
    return paths
