"""ONNX Runtime on the CPU: runs ``.onnx`` files as they are."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import BundleError, MissingBackendError, UnsupportedError
from edgekit.manifest import Artifact, Graph, TensorSpec

from .base import Session, effective, failed, first_reason, refused

_ERRORS_ONLY: Final = 3  # its severity level; the default prints advice for developers
_TYPES: Final = {"float": "float32", "double": "float64"}  # the rest is called as in NumPy


class OnnxRuntimeSession(Session):
    """An ``onnxruntime.InferenceSession`` on its CPU provider, with all optimisations.

    Args:
        spinning: whether idle threads spin for a while before they sleep. ONNX Runtime's
            default is to spin, which is quicker from one run to the next and takes the
            processor from whatever else runs.
    """

    runtime: ClassVar[str] = "onnxruntime"

    def __init__(
        self,
        files: Files,
        graph: Graph,
        artifact: Artifact,
        threads: int | None = None,
        *,
        spinning: bool = True,
    ) -> None:
        super().__init__(graph.inputs, graph.outputs, graph.dynamic, threads)
        try:
            import onnxruntime
        except ImportError as e:
            raise MissingBackendError(
                "onnxruntime is not here", str(e), "pip install edgekit-toolkit"
            ) from e
        self._faults = _faults(onnxruntime)
        for extra in artifact.extra:  # weights beside the graph, which it opens by itself
            files.file(extra)
        path = files.file(artifact.file or "")
        options = _options(onnxruntime, threads, spinning)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except self._faults as e:
            if type(e).__name__ == "NotImplemented":
                raise UnsupportedError(
                    f"onnxruntime cannot run {artifact.file} here in {artifact.precision}",
                    first_reason(e),
                ) from e
            raise refused(self.runtime, artifact.file, e) from e
        _check_signature(artifact.file, self._session.get_inputs(), graph.inputs)
        _check_signature(artifact.file, self._session.get_outputs(), graph.outputs)
        self._names = [spec.name for spec in graph.outputs]
        self.effective_precision = _precision(artifact.precision)

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feed = inputs if isinstance(inputs, dict) else dict(inputs)
        try:
            return dict(zip(self._names, self._session.run(self._names, feed), strict=True))
        except self._faults as e:
            raise failed(self.runtime, e) from e

    def bind(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> Callable[[], None]:
        """As :meth:`.base.Session.bind`: it reads and writes the arrays themselves."""
        self._check(inputs)
        session, faults, name_of = self._session, self._faults, self.runtime
        binding = session.io_binding()
        kept = (dict(inputs), dict(outputs))
        for name, array in kept[0].items():
            address = array.ctypes.data
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, address)
        for name, array in kept[1].items():
            address = array.ctypes.data
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, address)

        def run(kept: object = kept) -> None:  # which keeps the memory alive
            try:
                session.run_with_iobinding(binding)
            except faults as e:
                raise failed(name_of, e) from e

        return run

    def close(self) -> None:
        """Release the graph and its arena."""
        self._session = None
        super().close()


def _options(onnxruntime: Any, threads: int | None, spinning: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _faults(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """Its exceptions, which have no base class of their own."""
    module = onnxruntime.capi.onnxruntime_pybind11_state
    kinds = (value for value in vars(module).values() if isinstance(value, type))
    return tuple(kind for kind in kinds if issubclass(kind, Exception))


def _check_signature(file: str | None, found: Sequence[Any], specs: tuple[TensorSpec, ...]) -> None:
    have = {arg.name: arg.type for arg in found}
    want = {spec.name: spec.dtype for spec in specs}
    named = {
        name: _TYPES.get(kind := text.removeprefix("tensor(").removesuffix(")"), kind)
        for name, text in have.items()
    }
    if named != want:
        raise BundleError(
            f"{file} does not fit the manifest", f"the graph has {named}, the manifest {want}"
        )


def _precision(asked: str) -> str:
    """What the CPU provider computes in.

    On x86 it has no half-precision kernels: its optimised graph shows a Cast to float32
    before and back after each operator (seen with 1.32). On 64-bit Arm it has some, and
    which of a graph's operators use them is not told.
    """
    if asked == "fp16" and platform.machine().lower() in ("arm64", "aarch64"):
        return "fp16 + fp32"
    return effective(asked, "fp32")
