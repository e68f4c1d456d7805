"""ONNX for ONNX Runtime: one checked file below 2 GB, weights beside it above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bundle import Files
from edgekit.manifest import Artifact

from ...quant.plan import QuantPlan
from ..passes.cast_precision import cast_precision
from ..program import Program
from .base import Lowered, Target
from .need import need
from .onnx_files import check_onnx, save_onnx
from .onnx_graph import count_operators, opset_of, to_onnx
from .onnx_int8 import quantise
from .onnx_weights import quantise_weights
from .weight_only import kept_values, refuse_convolutional, refuse_dynamic, refuse_palettes

if TYPE_CHECKING:
    import onnx_ir


class OnnxTarget(Target):
    """``torch.onnx`` (dynamo) and the onnxscript optimiser; runs on ONNX Runtime."""

    name = "onnx"
    runtime = "onnxruntime"

    def check(self) -> None:
        need("onnxscript", "export", "the ONNX exporter")
        need("onnxruntime", "", "ONNX Runtime")

    def lower(self, program: Program, precision: str, folder: Path) -> Lowered:
        ready = cast_precision(program, precision)
        return _write(to_onnx(ready), folder, {"opset": opset_of(ready)})

    def lower_quantised(self, program: Program, plan: QuantPlan, folder: Path) -> Lowered:
        if plan.scheme == "weights":
            refuse_convolutional(self.name, program, plan)
            refuse_palettes(self.name, plan)
            model, details = quantise_weights(to_onnx(program), plan)
            return _write(model, folder, {"opset": opset_of(program), **details}, plan.precision)
        refuse_dynamic(program, plan)
        model = quantise(to_onnx(program), kept_values(program, plan))
        return _write(model, folder, {"opset": opset_of(program), "activations": "uint8"}, "int8")

    def tap(
        self,
        files: Files,
        artifact: Artifact,
        names: Sequence[str],
        inputs: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        import onnxruntime

        wanted, model = _expose(files.file(artifact.file), names)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return dict(zip(wanted, session.run(wanted, dict(inputs)), strict=True))


def _write(
    model: onnx_ir.Model, folder: Path, details: Mapping[str, Any], precision: str | None = None
) -> Lowered:
    """Save and check a model in ``folder``."""
    extra = save_onnx(model, folder / "model.onnx")
    check_onnx(folder / "model.onnx")
    return Lowered(
        file="model.onnx",
        extra=extra,
        operators=count_operators(model),
        details={**details, "ir_version": model.ir_version},
        effective_precision=precision,
    )


def _expose(path: Path, names: Sequence[str]) -> tuple[list[str], bytes]:
    """The model with those intermediate values that are called ``names`` as its outputs."""
    import onnx_ir as ir

    model = ir.load(path)
    inside = {value.name: value for node in model.graph for value in node.outputs}
    wanted = [name for name in names if name in inside]
    model.graph.outputs.clear()
    model.graph.outputs.extend(inside[name] for name in wanted)
    return wanted, ir.serde.serialize_model(model).SerializeToString()
