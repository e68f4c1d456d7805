"""TensorRT: engines compiled ahead of time for RTX GPUs, and a recipe for every other one."""

from __future__ import annotations

import json
from pathlib import Path

from edgekit.errors import MissingBackendError, UnsupportedError
from edgekit.manifest import Level

from ...runtimes import tensorrt_build
from ...runtimes.tensorrt_build import CAPABILITIES, ParserRefusedError, build_engine
from ..passes.cast_precision import cast_precision
from ..program import Program
from .base import Lowered, Target, find_operator, shorten
from .need import need
from .onnx import check_onnx, save_onnx
from .onnx_graph import OPSET, count_operators, to_onnx

ENGINE = "rtx.engine"
RECIPE = "recipe.json"


class TensorRTTarget(Target):
    """Two flavours behind one target.

    TensorRT for RTX compiles real engines here, for several compute capabilities, without a
    GPU. Full TensorRT compiles for the GPU it runs on, so the artifact also carries the ONNX
    file and a recipe, from which ``edgekit build`` makes an engine on the device.
    """

    name = "tensorrt"
    runtime = "tensorrt"
    level: Level = "compiled"

    def check(self) -> None:
        need("onnxscript", "export", "the ONNX exporter")
        try:
            tensorrt_build.library("rtx")
        except MissingBackendError:
            tensorrt_build.library("full")

    def lower(self, program: Program, precision: str, folder: Path) -> Lowered:
        ready = cast_precision(program, precision)
        model = to_onnx(ready)
        extra = save_onnx(model, folder / "model.onnx")
        check_onnx(folder / "model.onnx")
        engines, notes = self._compile(ready, folder)
        recipe = {
            "onnx": "model.onnx",
            "precision": precision,
            "inputs": [spec.model_dump(mode="json") for spec in program.inputs],
            "dynamic": {axis: limits.model_dump() for axis, limits in program.dynamic.items()},
            "build": "edgekit build BUNDLE",
        }
        (folder / RECIPE).write_text(json.dumps(recipe, indent=1, sort_keys=True) + "\n")
        return Lowered(
            file="model.onnx",
            extra=(*extra, *(entry["file"] for entry in engines), RECIPE),
            operators=count_operators(model),
            effective_precision=precision,
            details={"flavour": "rtx", "opset": OPSET, "engines": engines, "recipe": RECIPE},
            notes=notes,
        )

    def _compile(self, program: Program, folder: Path) -> tuple[list[dict], tuple[str, ...]]:
        trt = tensorrt_build.library("rtx")
        try:
            engine = build_engine(
                "rtx", folder / "model.onnx", program.inputs, program.dynamic, CAPABILITIES
            )
        except ParserRefusedError as error:
            raise _explain(program, error) from error
        (folder / ENGINE).write_bytes(engine)
        entry = {
            "file": ENGINE,
            "compute_capabilities": list(CAPABILITIES),
            "library": f"tensorrt-rtx {trt.__version__}",
        }
        notes = (
            f"compiled by TensorRT for RTX for compute capabilities {', '.join(CAPABILITIES)}; "
            "no engine was run, so no numbers were compared",
        )
        return [entry], notes


def _explain(program: Program, error: ParserRefusedError) -> UnsupportedError:
    if not error.problems:
        return error
    first = error.problems[0]
    # ONNX nodes are called node_<name> after the node of the common graph they come from.
    place = find_operator(program, first.node.removeprefix("node_")) or find_operator(
        program, first.operator
    )
    return UnsupportedError(
        f"tensorrt does not take the operator {first.operator}"
        + (f", from {place}" if place else f" (node {first.node})"),
        shorten(first.why),
        "leave the target out, or rewrite the operator in the model",
    )
