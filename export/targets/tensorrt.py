"""TensorRT: engines compiled ahead of time for RTX GPUs, and a recipe for every other one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.bundle import Files
from edgekit.errors import MissingBackendError, UnsupportedError
from edgekit.manifest import Artifact, Graph, Level

from ...quant.plan import QuantPlan
from ...runtimes import tensorrt_build
from ...runtimes.sessions.base import Session
from ...runtimes.tensorrt_build import CAPABILITIES, ParserRefusedError, build_engine
from ..memory_plan import plan_memory
from ..passes.cast_precision import cast_precision
from ..program import Program
from .base import Lowered, Target, shorten
from .need import need
from .onnx_files import check_onnx, save_onnx
from .onnx_graph import count_operators, opset_of, origin_of, to_onnx
from .onnx_int8 import quantise
from .tensorrt_weights import OPSET, quantise_weights
from .weight_only import kept_values, refuse_convolutional, refuse_palettes

if TYPE_CHECKING:
    import onnx_ir

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
        return self._write(ready, to_onnx(ready), precision, folder)

    def lower_quantised(self, program: Program, plan: QuantPlan, folder: Path) -> Lowered:
        if plan.scheme == "weights":
            refuse_convolutional(self.name, program, plan)
            refuse_palettes(self.name, plan)
            ready = cast_precision(program, "fp16")  # what its kernels multiply integers with
            model, details = quantise_weights(to_onnx(ready), plan)
            lowered = self._write(ready, model, plan.precision, folder)
            return replace(
                lowered,
                details={**lowered.details, **details, "opset": OPSET},
                effective_precision=f"fp16 ({plan.precision} weights)",
            )
        if plan.scheme == "dynamic":
            raise UnsupportedError(
                "tensorrt does not take dynamic int8", "its ranges are in the graph", "give --calib"
            )
        model = quantise(to_onnx(program), kept_values(program, plan), symmetric=True)
        return self._write(program, model, plan.precision, folder)

    def stand_in(self, files: Files, graph: Graph, artifact: Artifact) -> Session:
        from ...runtimes.sessions.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(files, graph, artifact)

    def _write(
        self, program: Program, model: onnx_ir.Model, precision: str, folder: Path
    ) -> Lowered:
        """Save ``model``, which was made of ``program``, compile it, and say how."""
        extra = save_onnx(model, folder / "model.onnx")
        check_onnx(folder / "model.onnx")
        stored = sum((folder / name).stat().st_size for name in ("model.onnx", *extra))
        memory = plan_memory(program, stored).to_json()
        engines, unrun = self._compile(program, folder)
        recipe = {
            "onnx": "model.onnx",
            "precision": precision,
            "inputs": [spec.model_dump(mode="json") for spec in program.inputs],
            "dynamic": {axis: limits.model_dump() for axis, limits in program.dynamic.items()},
            "memory": memory,
            "build": "edgekit build BUNDLE",
        }
        (folder / RECIPE).write_text(json.dumps(recipe, indent=1, sort_keys=True) + "\n")
        return Lowered(
            file="model.onnx",
            extra=(*extra, *(entry["file"] for entry in engines), RECIPE),
            operators=count_operators(model),
            effective_precision=precision,
            details={
                "flavour": "rtx",
                "opset": opset_of(program),
                "engines": engines,
                "recipe": RECIPE,
                "memory": memory,
            },
            unrun=unrun,
        )

    def _compile(self, program: Program, folder: Path) -> tuple[list[dict], tuple[str, ...]]:
        trt = tensorrt_build.library("rtx")
        try:
            engine = build_engine(
                "rtx", folder / "model.onnx", program.inputs, program.dynamic, CAPABILITIES
            )
        except ParserRefusedError as error:
            raise _explain(to_onnx(program), error) from error
        (folder / ENGINE).write_bytes(engine)
        entry = {
            "file": ENGINE,
            "compute_capabilities": list(CAPABILITIES),
            "library": f"tensorrt-rtx {trt.__version__}",
        }
        unrun = (
            f"compiled by TensorRT for RTX for compute capabilities {', '.join(CAPABILITIES)}; "
            "no engine was run, so no numbers were compared",
        )
        return [entry], unrun


def _explain(model: onnx_ir.Model, error: ParserRefusedError) -> UnsupportedError:
    if not error.problems:
        return error
    first = error.problems[0]
    kinds = [node.op_type for node in model.graph]
    index = first.index
    if index < 0 and first.operator in kinds:
        index = kinds.index(first.operator)
    place = origin_of(model, index)
    return UnsupportedError(
        f"tensorrt does not support {kinds[index] if index >= 0 else first.operator}"
        + (f", from {place}" if place else ""),
        shorten(first.why),
        "leave the target out, or rewrite the operator in the model",
    )
