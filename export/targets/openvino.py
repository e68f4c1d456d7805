"""OpenVINO IR: ``model.xml`` and ``model.bin``, converted from the ONNX form."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import UnsupportedError
from edgekit.manifest import Artifact

from ..program import Program
from .base import Lowered, Target, refuse, shorten
from .need import need
from .onnx import save_onnx
from .onnx_graph import to_onnx


class OpenVinoTarget(Target):
    """Through ONNX, because OpenVINO's own reader of exported programs loses static shapes.

    The IR keeps fp32 arithmetic; for fp16 and bf16 its weights are stored in fp16, and the
    session forces the asked precision when it compiles (OpenVINO would otherwise take bf16
    on a CPU that has it, whatever the IR says).
    """

    name = "openvino"
    runtime = "openvino"

    def check(self) -> None:
        need("onnxscript", "export", "the ONNX exporter")
        need("openvino", "openvino", "OpenVINO")

    def lower(self, program: Program, precision: str, folder: Path) -> Lowered:
        import openvino as ov

        if precision not in ("fp32", "fp16", "bf16"):
            raise UnsupportedError(f"openvino: precision {precision} is not available here")
        model = self.convert(program)
        names = [spec.name for spec in program.inputs]
        for port, name in zip(model.inputs, names, strict=True):
            port.get_tensor().set_names({name})
        _forget_paths(model)
        ov.save_model(model, folder / "model.xml", compress_to_fp16=precision == "fp16")
        kinds = Counter(node.get_type_name() for node in model.get_ordered_ops())
        return Lowered(
            file="model.xml",
            extra=("model.bin",),
            operators={kind: n for kind, n in kinds.most_common() if kind not in _NOT_WORK},
        )

    def convert(self, program: Program) -> Any:
        """The program as an ``openvino.Model``."""
        import openvino as ov

        onnx_model = to_onnx(program)
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "model.onnx"
            save_onnx(onnx_model, path)
            try:
                return ov.convert_model(path)
            except Exception as error:
                raise _explain(program, error) from error

    def tap(
        self,
        files: Files,
        artifact: Artifact,
        names: Sequence[str],
        inputs: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        import openvino as ov

        core = ov.Core()
        model = core.read_model(files.file(artifact.file))
        inside = {name for op in model.get_ordered_ops() for o in op.outputs() for name in o.names}
        wanted = [name for name in names if name in inside]
        # A value that is an output already is not added again.
        model.add_outputs([name for name in wanted if name not in _output_names(model)])
        hint = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[artifact.precision]
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        results = compiled(list(inputs.values()))
        return {
            name: np.array(results[port])
            for port in compiled.outputs
            for name in port.names
            if name in wanted
        }


def _output_names(model: Any) -> set[str]:
    return {name for port in model.outputs for name in port.names}


_NOT_WORK = ("Constant", "Parameter", "Result")


def _forget_paths(model: Any) -> None:
    """Drop the conversion's own record: it holds paths of this machine."""
    for section in list(model.get_rt_info()):
        if section != "Runtime_version":
            del model.get_rt_info()[section]


def _explain(program: Program, error: Exception) -> UnsupportedError:
    text = str(error)
    marker = "No translator found for"
    if marker in text:
        operator = text.split(marker, 1)[1].strip(" :\n").split()[0].strip("'\".,")
        return refuse("openvino", program, operator, text)
    return UnsupportedError("openvino cannot convert the graph", shorten(text))
