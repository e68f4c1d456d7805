"""OpenVINO on the CPU: runs IR files (``model.xml`` with ``model.bin`` beside it)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import BundleError, MissingBackendError
from edgekit.manifest import Artifact, Graph, TensorSpec

from .base import Session, effective, failed, refused

# Unless told, the plugin computes in bf16 wherever the processor has it, unlike the
# artifact that was verified. An integer graph's other parts stay in single precision.
_HINTS: Final = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32", "int4": "f32"}
_XML: Final = b"<?xml"
_WORDS: Final = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


class OpenVINOSession(Session):
    """A compiled model and one inference request; precision as the artifact was verified.

    ``effective_precision`` is read back from the compiled model: a processor without
    half-precision arithmetic computes in fp32, whatever was asked.
    """

    runtime: ClassVar[str] = "openvino"

    def __init__(
        self, files: Files, graph: Graph, artifact: Artifact, threads: int | None = None
    ) -> None:
        super().__init__(graph.inputs, graph.outputs, graph.dynamic, threads)
        try:
            import openvino
        except ImportError as e:
            raise MissingBackendError(
                "openvino is not here", str(e), 'pip install "edgekit-toolkit[openvino]"'
            ) from e
        weights = [files.file(extra) for extra in artifact.extra]
        path = files.file(artifact.file or "")
        _check_is_ir(path, artifact.file)
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            settings["INFERENCE_PRECISION_HINT"] = precision_hint(core, artifact.precision)
            # Named, because it would look for the weights under a name of its own making.
            model = core.read_model(path, *weights[:1])
            compiled = core.compile_model(model, "CPU", settings)
            self._request = compiled.create_infer_request()
            self._compiled, self._tensor = compiled, openvino.Tensor
        except RuntimeError as e:
            raise refused(self.runtime, artifact.file, e) from e
        _check_ports(artifact.file, compiled.inputs, graph.inputs)
        _check_ports(artifact.file, compiled.outputs, graph.outputs)
        self._input_names = [spec.name for spec in graph.inputs]
        self._output_names = [spec.name for spec in graph.outputs]
        computed = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.effective_precision = effective(artifact.precision, _WORDS.get(computed, computed))

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            # Inputs are read in place; outputs are copied, since the next run reuses them.
            results = self._request.infer(
                [inputs[name] for name in self._input_names],
                share_inputs=True,
                share_outputs=False,
            )
        except RuntimeError as e:
            raise failed(self.runtime, e) from e
        return {name: results[i] for i, name in enumerate(self._output_names)}

    def bind(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> Callable[[], None]:
        """As :meth:`.base.Session.bind`: a request of its own on the arrays themselves."""
        self._check(inputs)
        request, name_of = self._compiled.create_infer_request(), self.runtime
        for index, name in enumerate(self._input_names):
            request.set_input_tensor(index, self._tensor(inputs[name], shared_memory=True))
        for index, name in enumerate(self._output_names):
            request.set_output_tensor(index, self._tensor(outputs[name], shared_memory=True))

        def run() -> None:
            try:
                # Unlike infer(), these two make no arrays of the outputs.
                request.start_async()
                request.wait()
            except RuntimeError as e:
                raise failed(name_of, e) from e

        return run

    def close(self) -> None:
        """Release the compiled model."""
        self._request = self._compiled = None
        super().close()


def precision_hint(core: Any, precision: str) -> str:
    """What to ask the CPU plugin to compute in, for an artifact of ``precision``."""
    if precision == "fp16" and "FP16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "f32"  # it would take bf16 where the processor has that: three bits fewer
    return _HINTS.get(precision, "f32")


def _check_is_ir(path: Path, file: str | None) -> None:
    """OpenVINO guesses the format from the content and would try five other readers."""
    with open(path, "rb") as stream:
        if stream.read(len(_XML)) != _XML:
            raise refused(OpenVINOSession.runtime, file, ValueError("it is no OpenVINO IR"))


def _check_ports(file: str | None, ports: list[Any], specs: tuple[TensorSpec, ...]) -> None:
    have = [np.dtype(port.get_element_type().to_dtype()).name for port in ports]
    want = [spec.dtype for spec in specs]
    if have != want:
        raise BundleError(
            f"{file} does not fit the manifest", f"the graph has {have}, the manifest {want}"
        )
