"""TensorRT: runs engines on NVIDIA GPUs, with full TensorRT or TensorRT for RTX.

Not run where edgekit is developed (no GPU): written from the TensorRT and cuda-python
documentation; its tests run it on a stand-in for the device and check that every call it
makes exists in the real library.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import BundleError, DeviceError, MissingBackendError, UnsupportedError
from edgekit.manifest import Artifact, Graph, TensorSpec

from .base import Session, refused
from .cuda import Gpu
from .tensorrt_engines import PACKAGES, Device, find_engine


@dataclass
class _Buffer:
    """Device memory of one tensor; it grows and never shrinks."""

    address: int = 0
    size: int = -1


class TensorRTSession(Session):
    """An engine, one execution context and one stream; ``threads`` has no meaning here.

    Inputs of shape tensors (those that TensorRT reads on the host) are passed in place.

    Raises:
        MissingBackendError: no library, no GPU, or no engine that fits this device.
    """

    runtime: ClassVar[str] = "tensorrt"

    def __init__(
        self, files: Files, graph: Graph, artifact: Artifact, threads: int | None = None
    ) -> None:
        super().__init__(graph.inputs, graph.outputs, graph.dynamic, threads)
        libraries = _load_libraries()
        self._gpu = Gpu()
        self.own(self._gpu)
        try:
            self._trt, data = _choose(libraries, files, artifact, self._gpu.capability)
            self._engine = self._deserialize(data, artifact.file)
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise DeviceError("TensorRT cannot make an execution context", "out of memory?")
            self._check_tensors(artifact.file)
        except BaseException:
            self.close()
            raise
        host = self._trt.TensorLocation.HOST
        names = [spec.name for spec in (*graph.inputs, *graph.outputs)]
        self._on_host = {n for n in names if self._engine.get_tensor_location(n) == host}
        self._buffers = {name: _Buffer() for name in names}
        self.effective_precision = artifact.effective_precision or artifact.precision

    def _deserialize(self, data: bytes, file: str | None) -> Any:
        self._logger = self._trt.Logger(self._trt.Logger.ERROR)
        self._trt.init_libnvinfer_plugins(self._logger, "")
        self._library = self._trt.Runtime(self._logger)
        engine = self._library.deserialize_cuda_engine(data)
        if engine is None:  # it logs the reason to stderr
            raise refused(self.runtime, file, ValueError("the engine cannot be deserialized"))
        return engine

    def _check_tensors(self, file: str | None) -> None:
        engine, modes = self._engine, self._trt.TensorIOMode
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        for specs, mode in ((self.inputs, modes.INPUT), (self.outputs, modes.OUTPUT)):
            have = {n: self._dtype(n) for n in names if engine.get_tensor_mode(n) == mode}
            want = {spec.name: spec.dtype for spec in specs}
            if have != want:
                raise BundleError(
                    f"the engine of {file} does not fit the manifest",
                    f"it has {have}, the manifest {want}",
                )

    def _dtype(self, name: str) -> str:
        kind = self._engine.get_tensor_dtype(name)
        try:
            return np.dtype(self._trt.nptype(kind)).name
        except TypeError:  # NumPy has no such type
            return str(kind).rpartition(".")[2].lower()

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Queued copies read these arrays until wait(): the dictionary keeps them alive.
        feeds = {spec.name: _contiguous(inputs[spec.name]) for spec in self.inputs}
        for name, array in feeds.items():
            self._require(self._context.set_input_shape(name, array.shape), "set_input_shape")
            address = array.ctypes.data if name in self._on_host else self._room(name, array.nbytes)
            self._require(self._context.set_tensor_address(name, address), "set_tensor_address")
            if name not in self._on_host:
                self._gpu.upload(address, array)
        if unknown := self._context.infer_shapes():
            raise DeviceError("TensorRT cannot infer the shapes", ", ".join(unknown))
        results = {spec.name: self._result(spec) for spec in self.outputs}
        self._require(self._context.execute_async_v3(self._gpu.stream), "execute_async_v3")
        for name, array in results.items():
            if name not in self._on_host:
                self._gpu.download(array, self._buffers[name].address)
        self._gpu.wait()
        return results

    def _result(self, spec: TensorSpec) -> np.ndarray:
        shape = tuple(self._context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            raise UnsupportedError(
                f"the shape of output {spec.name} depends on the data", "TensorRT cannot tell it"
            )
        array = np.empty(shape, spec.dtype)
        host = spec.name in self._on_host
        address = array.ctypes.data if host else self._room(spec.name, array.nbytes)
        self._require(self._context.set_tensor_address(spec.name, address), "set_tensor_address")
        return array

    def _room(self, name: str, size: int) -> int:
        buffer = self._buffers[name]
        if buffer.size < size:
            if buffer.size >= 0:
                self._gpu.free(buffer.address)
                buffer.size = -1
            buffer.address, buffer.size = self._gpu.allocate(size), size
        return buffer.address

    def _require(self, done: bool, call: str) -> None:
        if not done:  # the reason is in TensorRT's log on stderr
            raise DeviceError(f"TensorRT's {call} failed", "see its message above")

    def close(self) -> None:
        """Release the engine, then the device's memory."""
        self._context = self._engine = None
        super().close()


def _contiguous(array: np.ndarray) -> np.ndarray:
    return array if array.flags.c_contiguous else np.array(array, order="C")


def _load_libraries() -> dict[str, Any]:
    found, reasons = {}, []
    for flavour, package in PACKAGES.items():
        try:
            found[flavour] = importlib.import_module(package)
        except (ImportError, OSError) as e:  # OSError: its shared libraries do not load
            reasons.append(str(e))
    if not found:
        raise MissingBackendError(
            "TensorRT is not here", "; ".join(reasons), 'pip install "edgekit-toolkit[tensorrt]"'
        )
    return found


def _choose(
    libraries: Mapping[str, Any], files: Files, artifact: Artifact, capability: str
) -> tuple[Any, bytes]:
    """The library and the engine to load with it."""
    for flavour, library in libraries.items():
        device = Device(flavour, library.__version__, capability)
        if (path := find_engine(files, artifact, device)) is not None:
            return library, path.read_bytes()
    here = " or ".join(f"{PACKAGES[f]} {lib.__version__}" for f, lib in libraries.items())
    raise MissingBackendError(
        "no TensorRT engine fits this device",
        f"it has compute capability {capability} and {here}",
        "edgekit build BUNDLE makes one here",
    )
