"""Which runtimes there are, what they need, and which of them can work here.

Adding a runtime is one line here and one file in :mod:`edgekit.runtimes.sessions`.
Nothing in this module loads a runtime: it looks for packages without importing them.
"""

import ctypes
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from edgekit.errors import MissingBackendError, UsageError

from .sessions.base import Session


@dataclass(frozen=True)
class Runtime:
    """One way to run a graph.

    Attributes:
        name: what the user types. target: whose artifacts it runs.
        session: ``"module:class"``, the module in :mod:`edgekit.runtimes.sessions`.
        needs: packages, each given by the names under which it may be imported.
        install: what ``pip install`` takes.
        native: the package of a library that does without ``needs``, and the session that uses
            it, as ``session``; taken where one of ``needs`` is absent.
    """

    name: str
    target: str
    session: str
    needs: tuple[tuple[str, ...], ...]
    install: str
    native: tuple[str, str] | None = None


# In the order in which "auto" tries them where nothing has been measured: what a device's
# vendor built for its accelerator, then CPU runtimes by how they usually rank.
RUNTIMES: Final = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            "tensorrt",
            "tensorrt",
            "tensorrt:TensorRTSession",
            (("tensorrt", "tensorrt_rtx"), ("cuda.bindings",)),
            "edgekit-toolkit[tensorrt]",
        ),
        Runtime(
            "coreml",
            "coreml",
            "coreml:CoreMLSession",
            (("coremltools",),),
            "edgekit-toolkit[coreml]",
        ),
        Runtime(
            "openvino",
            "openvino",
            "openvino:OpenVINOSession",
            (("openvino",),),
            "edgekit-toolkit[openvino]",
        ),
        Runtime(
            "onnxruntime",
            "onnx",
            "onnxruntime:OnnxRuntimeSession",
            (("onnxruntime",),),
            "edgekit-toolkit",
        ),
        Runtime(
            "executorch",
            "executorch",
            "executorch:ExecuTorchSession",
            (("executorch",), ("torch",)),
            "edgekit-toolkit[executorch]",
            native=("edgekit_executorch", "executorch_native:NativeExecuTorchSession"),
        ),
    )
}


def get(name: str) -> Runtime:
    """The runtime called ``name``.

    Raises:
        UsageError: there is none.
    """
    if name not in RUNTIMES:
        raise UsageError(f"no runtime {name!r}", f"there are {', '.join(RUNTIMES)}, and auto")
    return RUNTIMES[name]


def for_target(target: str) -> Runtime:
    """The runtime that runs artifacts of ``target``.

    Raises:
        UsageError: there is none.
    """
    for runtime in RUNTIMES.values():
        if runtime.target == target:
            return runtime
    raise UsageError(f"no runtime runs the target {target!r}")


def session_class(runtime: Runtime) -> type[Session]:
    """The session class of a runtime; its module is loaded, the runtime itself is not."""
    path = runtime.session
    if runtime.native and _absent(runtime) and _installed(runtime.native[0]):
        path = runtime.native[1]
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f".sessions.{module}", __package__), name)


def missing(runtime: Runtime) -> MissingBackendError | None:
    """What ``runtime`` lacks on this machine, as the error to raise; None if nothing."""
    if runtime.name == "coreml" and sys.platform != "darwin":
        return MissingBackendError(
            "Core ML is not here",
            "Core ML runs on Apple systems only",
            "copy the bundle to a Mac, or choose another --runtime",
        )
    native = runtime.native is not None and _installed(runtime.native[0])
    if not native and (names := _absent(runtime)):
        return not_installed(runtime, names)
    if runtime.name == "tensorrt" and not _cuda_devices():
        return MissingBackendError(
            "TensorRT cannot run here",
            "no NVIDIA driver with a CUDA device is visible",
            "run it on the device, or choose another --runtime",
        )
    return None


def not_installed(runtime: Runtime, packages: Iterable[str]) -> MissingBackendError:
    """The error for a runtime whose packages are absent or cannot be loaded."""
    return MissingBackendError(
        f"{runtime.name} is not here",
        f"the Python package {' or '.join(packages)} is not installed",
        f'pip install "{runtime.install}"',
    )


def _absent(runtime: Runtime) -> tuple[str, ...]:
    """The first of its needs that is not installed; empty if all are."""
    return next(
        (names for names in runtime.needs if not any(_installed(name) for name in names)), ()
    )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is absent, or half loaded
        return False


def _cuda_devices() -> int:
    """How many devices the NVIDIA driver shows; 0 without a driver.

    Asks the driver library itself, since loading a runtime to find out takes seconds.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        working = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if working else 0
