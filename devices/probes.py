"""Does this back end work here? One function a back end, each run in its own process.

``python -m edgekit.devices.probes NAME`` prints one JSON object: ``version``, ``devices``
and ``detail``, or ``error``. A probe computes something where that costs little; being
importable is not yet working.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Callable
from typing import Any

from edgekit.errors import EdgekitError

from .child import answer, claim_stdout

Finding = dict[str, Any]


def onnxruntime() -> Finding:
    """Run a one-node model on the CPU."""
    import numpy as np
    import onnxruntime as ort

    session = ort.InferenceSession(relu_model(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.array([-1.0, 2.0], np.float32)})
    _expect(result.tolist(), [0.0, 2.0])
    providers = [p.removesuffix("ExecutionProvider") for p in ort.get_available_providers()]
    return {"version": ort.__version__, "devices": providers, "detail": "runs on CPU"}


def openvino() -> Finding:
    """Compile and run a one-node model on the CPU."""
    import numpy as np
    import openvino as ov
    from openvino import opset13

    parameter = opset13.parameter([2], np.float32)
    model = ov.Model([opset13.relu(parameter)], [parameter])
    core = ov.Core()
    result = core.compile_model(model, "CPU")([np.array([-1.0, 2.0], np.float32)])[0]
    _expect(result.tolist(), [0.0, 2.0])
    devices = [f"{d}: {core.get_property(d, 'FULL_DEVICE_NAME')}" for d in core.available_devices]
    version = ov.get_version().partition("-")[0]
    return {"version": version, "devices": devices, "detail": "runs on CPU"}


def executorch() -> Finding:
    """Load its runtime and list the back ends compiled into it; without torch the native one."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("executorch") is None:
        from ..runtimes.sessions.executorch_native import load_library

        threads = load_library().edgekit_threads(0)
        version = importlib.metadata.version("edgekit-toolkit-executorch")
        detail = f"native runner loads, {threads} threads"
        return {"version": version, "devices": ["XnnpackBackend"], "detail": detail}
    from executorch.runtime import Runtime

    registry = Runtime.get().backend_registry
    names = [n for n in registry.registered_backend_names if registry.is_available(n)]
    lacks = "XnnpackBackend" not in names  # the delegate that edgekit lowers to
    return {
        "version": importlib.metadata.version("executorch"),
        "devices": names,
        "detail": "runtime lacks XNNPACK" if lacks else "runtime loads",
        "limited": lacks,
    }


def coreml() -> Finding:
    """Import the converter; only macOS can predict."""
    import coremltools as ct

    if platform.system() == "Darwin":
        return {"version": ct.__version__, "devices": ["macOS"], "detail": "converts and predicts"}
    detail = "converts; predicts on macOS only"
    return {"version": ct.__version__, "devices": [], "detail": detail, "limited": True}


def tensorrt_rtx() -> Finding:
    """Make a builder: TensorRT for RTX compiles ahead of time, without a GPU."""
    import tensorrt_rtx as trt

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    _expect(builder.create_network(0).num_layers, 0)
    return {"version": trt.__version__, **_gpu_finding("compiles ahead of time")}


def tensorrt() -> Finding:
    """Make a builder where a GPU is visible; full TensorRT refuses to without one."""
    import tensorrt as trt

    finding = {"version": trt.__version__, **_gpu_finding("installed")}
    if finding["devices"]:
        trt.Builder(trt.Logger(trt.Logger.ERROR))
    return finding


def torch() -> Finding:
    """Compute a sum, which initialises its CPU library."""
    import torch as library

    _expect(float(library.ones(3).sum()), 3.0)
    cuda = library.cuda.device_count() if library.cuda.is_available() else 0
    devices = ["CPU", *(library.cuda.get_device_name(i) for i in range(cuda))]
    return {"version": library.__version__, "devices": devices, "detail": "computes on CPU"}


def onnx() -> Finding:
    """Check a one-node model, and find the exporter's own two packages."""
    import onnx as library
    import onnx_ir
    import onnxscript

    library.checker.check_model(library.load_from_string(relu_model()))
    detail = f"with onnxscript {onnxscript.__version__}, onnx-ir {onnx_ir.__version__}"
    return {"version": library.__version__, "devices": [], "detail": detail}


def transformers() -> Finding:
    """Import it: the source of ``hf:`` models."""
    import transformers as library

    return {"version": library.__version__, "devices": [], "detail": "for hf:FOLDER"}


def timm() -> Finding:
    """Import it as the ``timm:`` source does: beside a torchvision of another build, too."""
    from ..models.sources.timm_model import import_timm

    library = import_timm()
    return {"version": library.__version__, "devices": [], "detail": "for timm:NAME"}


def gpus() -> list[str]:
    """The NVIDIA GPUs that the driver shows, e.g. ``NVIDIA GeForce RTX 3060 (SM 86)``.

    Asks the CUDA driver itself, so that neither torch nor a CUDA toolkit is needed. No
    driver, or none that starts, is no GPU.
    """
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_gpu_name(cuda, index) for index in range(count.value)]


def _gpu_name(cuda: ctypes.CDLL, index: int) -> str:
    capability_major, capability_minor = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
    name, value = ctypes.create_string_buffer(256), ctypes.c_int()
    cuda.cuDeviceGetName(name, len(name), index)
    digits = ""
    for attribute in (capability_major, capability_minor):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, index)
        digits += str(value.value)
    return f"{name.value.decode(errors='replace')} (SM {digits})"


def _gpu_finding(can: str) -> Finding:
    found = gpus()
    lacks = "" if found else "no GPU visible"
    if not lacks and importlib.util.find_spec("cuda") is None:
        lacks = "cuda-python is not installed"
    detail = f"{can}; {lacks}, so engines cannot run here" if lacks else f"{can} and runs"
    return {"devices": found, "detail": detail, "limited": bool(lacks)}


def relu_model() -> bytes:
    """A serialised ONNX model with one Relu over two floats.

    Written field by field after onnx.proto (protobuf's wire format), because the ``onnx``
    package is not there on a device.
    """

    def number(field: int, value: int) -> bytes:
        return bytes([field << 3, value])

    def message(field: int, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return bytes([field << 3 | 2, len(body)]) + body

    shape = message(2, message(1, number(1, 2)))
    tensor = message(2, message(1, number(1, 1), shape))  # elem_type FLOAT
    node = message(1, message(1, b"x"), message(2, b"y"), message(4, b"Relu"))
    graph = message(
        7,
        node,
        message(2, b"relu"),
        message(11, message(1, b"x"), tensor),
        message(12, message(1, b"y"), tensor),
    )
    return number(1, 8) + graph + message(8, number(2, 17))  # IR version 8, opset 17


def _expect(result: object, expected: object) -> None:
    if result != expected:
        raise ArithmeticError(f"computed {result} instead of {expected}")


PROBES: dict[str, Callable[[], Finding]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "executorch": executorch,
    "coreml": coreml,
    "tensorrt-rtx": tensorrt_rtx,
    "tensorrt": tensorrt,
    "torch": torch,
    "onnx": onnx,
    "transformers": transformers,
    "timm": timm,
}


def main(name: str) -> None:
    stream = claim_stdout()
    try:
        finding = PROBES[name]()
    except Exception as error:  # whatever a broken library raises is the finding
        first_line = (str(error).strip().splitlines() or [""])[0]
        ours = isinstance(error, EdgekitError)  # which says all that there is to say
        finding = {"error": first_line if ours else f"{type(error).__name__}: {first_line}"}
    answer(stream, finding)


if __name__ == "__main__":
    main(sys.argv[1])
