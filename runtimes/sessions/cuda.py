"""The little of CUDA that a TensorRT session needs, through ``cuda.bindings.runtime``.

Not run where edgekit is developed (no GPU): written from the documentation of cuda-python,
whose functions return ``(error, value, …)`` and never raise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.errors import DeviceError, MissingBackendError


class Gpu:
    """One CUDA device, one stream, and the memory allocated through it.

    Attributes:
        capability: compute capability, as in ``"8.7"``.
        stream: the stream's handle as an integer, for APIs that take one.

    Raises:
        MissingBackendError: cuda-python or a device is not here.
        DeviceError: (any method) a CUDA call failed.
    """

    def __init__(self, device: int = 0) -> None:
        self._runtime = runtime = _bindings()
        error, count = runtime.cudaGetDeviceCount()
        if int(error) != 0 or not count:
            raise MissingBackendError(
                "no CUDA device is here",
                self._describe(error) if int(error) else "the driver shows none",
                "run it on the device, or choose another --runtime",
            )
        self._call("cudaSetDevice", device)
        kinds = runtime.cudaDeviceAttr
        major = self._call(
            "cudaDeviceGetAttribute", kinds.cudaDevAttrComputeCapabilityMajor, device
        )
        minor = self._call(
            "cudaDeviceGetAttribute", kinds.cudaDevAttrComputeCapabilityMinor, device
        )
        self.capability = f"{major}.{minor}"
        self._stream = self._call("cudaStreamCreate")
        self.stream = int(self._stream)
        self._blocks: set[int] = set()

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes on the device (one at least: null is no tensor)."""
        address = int(self._call("cudaMalloc", max(size, 1)))
        self._blocks.add(address)
        return address

    def free(self, address: int) -> None:
        """Give back what :meth:`allocate` returned."""
        self._blocks.discard(address)
        self._call("cudaFree", address)

    def upload(self, address: int, array: np.ndarray) -> None:
        """Queue a copy of a contiguous array; it must stay alive until :meth:`wait`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, array: np.ndarray, address: int) -> None:
        """Queue a copy into a contiguous array, complete after :meth:`wait`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Block until everything queued is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free all memory and the stream."""
        while self._blocks:
            self._call("cudaFree", self._blocks.pop())
        if self._stream is not None:
            stream, self._stream = self._stream, None
            self._call("cudaStreamDestroy", stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._runtime, name)(*arguments)
        if int(error) != 0:
            raise DeviceError(f"{name} failed", self._describe(error))
        return values[0] if values else None

    def _describe(self, error: Any) -> str:
        _, text = self._runtime.cudaGetErrorString(error)
        return text.decode(errors="replace")


def _bindings() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as e:
        raise MissingBackendError(
            "cuda-python is not here", str(e), 'pip install "edgekit-toolkit[tensorrt]"'
        ) from e
    return runtime
