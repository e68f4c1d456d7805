"""ONNX for ONNX Runtime: one checked file below 2 GB, weights beside it above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import UnsupportedError
from edgekit.manifest import Artifact

from ..passes.cast_precision import cast_precision
from ..program import Program
from .base import Lowered, Target, shorten
from .need import need
from .onnx_graph import count_operators, opset_of, to_onnx

if TYPE_CHECKING:
    import onnx_ir

# Protobuf cannot hold 2 GiB; leave room for the graph itself.
SINGLE_FILE_LIMIT = 2**31 - 2**24


class OnnxTarget(Target):
    """``torch.onnx`` (dynamo) and the onnxscript optimiser; runs on ONNX Runtime."""

    name = "onnx"
    runtime = "onnxruntime"

    def check(self) -> None:
        need("onnxscript", "export", "the ONNX exporter")
        need("onnxruntime", "", "ONNX Runtime")

    def lower(self, program: Program, precision: str, folder: Path) -> Lowered:
        ready = cast_precision(program, precision)
        model = to_onnx(ready)
        extra = save_onnx(model, folder / "model.onnx")
        check_onnx(folder / "model.onnx")
        return Lowered(
            file="model.onnx",
            extra=extra,
            operators=count_operators(model),
            details={"opset": opset_of(ready), "ir_version": model.ir_version},
        )

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


def _expose(path: Path, names: Sequence[str]) -> tuple[list[str], bytes]:
    """The model with those intermediate values that are called ``names`` as its outputs."""
    import onnx_ir as ir

    model = ir.load(path)
    inside = {value.name: value for node in model.graph for value in node.outputs}
    wanted = [name for name in names if name in inside]
    model.graph.outputs.clear()
    model.graph.outputs.extend(inside[name] for name in wanted)
    return wanted, ir.serde.serialize_model(model).SerializeToString()


def save_onnx(model: onnx_ir.Model, path: Path, limit: int = SINGLE_FILE_LIMIT) -> tuple[str, ...]:
    """Write ``model``; returns the names of files beside it that hold its weights."""
    import onnx_ir as ir

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    if size <= limit:
        ir.save(model, path)
        return ()
    ir.save(model, path, external_data=f"{path.name}.data")
    return (f"{path.name}.data",)


def check_onnx(path: Path) -> None:
    """Run ONNX's own checker over a file, with shape inference.

    Raises:
        UnsupportedError: the model is not valid ONNX.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise UnsupportedError("onnx: the emitted model is not valid", shorten(error)) from error
