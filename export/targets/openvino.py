"""OpenVINO IR: ``model.xml`` and ``model.bin``, converted from the ONNX form."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import UnsupportedError
from edgekit.manifest import Artifact

from ...quant.plan import QuantPlan
from ...runtimes.sessions.openvino import precision_hint
from ..program import Program
from .base import Lowered, Target, refuse, shorten
from .need import need
from .onnx_files import save_onnx
from .onnx_graph import to_onnx
from .openvino_int8 import quantise
from .openvino_norm import normalize_in_place
from .openvino_weights import NOTE, compress
from .silent_openvino import silent_converter
from .weight_only import kept_values, refuse_convolutional, refuse_palettes


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
        if precision not in ("fp32", "fp16", "bf16"):
            raise UnsupportedError(f"openvino: precision {precision} is not available here")
        return self._write(self._prepare(program), folder, fp16=precision == "fp16")

    def lower_quantised(self, program: Program, plan: QuantPlan, folder: Path) -> Lowered:
        if plan.scheme == "weights":
            if plan.bits == 4:
                refuse_convolutional(self.name, program, plan)
            refuse_palettes(self.name, plan)
            model = self._prepare(program)
            details = compress(model, kept_values(program, plan))
            return replace(
                self._write(model, folder),
                details=details,
                effective_precision=plan.precision,
                notes=(NOTE,),
            )
        if plan.scheme == "dynamic":
            raise UnsupportedError(
                "openvino does not take dynamic int8",
                "its plugin quantises activations by itself where weights are int8",
                "use --scheme weights, or static with --calib",
            )
        model, notes = quantise(self._prepare(program), kept_values(program, plan))
        return replace(self._write(model, folder), notes=notes)

    def _prepare(self, program: Program) -> Any:
        """The program as an ``openvino.Model`` with the contract's names."""
        model = self.convert(program)
        names = [spec.name for spec in program.inputs]
        for port, name in zip(model.inputs, names, strict=True):
            port.get_tensor().set_names({name})
        normalize_in_place(model)
        return model

    def _write(self, model: Any, folder: Path, fp16: bool = False) -> Lowered:
        """Save a model in ``folder``; with ``fp16`` its floating-point weights are halved."""
        import openvino as ov

        _forget_paths(model)
        _number_names(model)
        ov.save_model(model, folder / "model.xml", compress_to_fp16=fp16)
        kinds = Counter(node.get_type_name() for node in model.get_ordered_ops())
        return Lowered(
            file="model.xml",
            extra=("model.bin",),
            operators={kind: n for kind, n in kinds.most_common() if kind not in _NOT_WORK},
        )

    def convert(self, program: Program) -> Any:
        """The program as an ``openvino.Model``."""
        onnx_model = to_onnx(program)
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "model.onnx"
            save_onnx(onnx_model, path)
            try:
                with silent_converter() as convert_model:
                    return convert_model(path)
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
        hint = precision_hint(core, artifact.precision)
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


def _number_names(model: Any) -> None:
    """Number nodes without a name of their own within the model.

    OpenVINO numbers them by a counter of the process, so that the same model converted
    twice would not have the same bytes.
    """
    for index, node in enumerate(model.get_ordered_ops()):
        name = node.get_friendly_name()
        own = any(name in output.names for output in node.outputs())
        if not own and re.search(r"_\d+$", name):
            node.set_friendly_name(f"{node.get_type_name()}_{index}")


def _explain(program: Program, error: Exception) -> UnsupportedError:
    text = str(error)
    for pattern in (
        r"While validating ONNX node '<Node\(\w+\): (?:node_)?(\w+)>'",
        r"No translator found for:?\s*'?\"?([\w.]+)",
        r"No conversion rule found for operations: ([A-Za-z_]+)",
    ):
        if found := re.search(pattern, text):
            return refuse("openvino", program, found[1], text)
    return UnsupportedError("openvino cannot convert the graph", shorten(text))
