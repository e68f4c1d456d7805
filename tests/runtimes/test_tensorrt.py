"""TensorRT without a GPU: choosing engines, and the session on a stand-in for the device.

The stand-in keeps "device" memory in the host's and copies bytes for real, so that wrong
sizes, orders or addresses show. It proves nothing about NVIDIA's library; that every name
the session uses exists there is checked against the real one where it is installed.
"""

import ast
import ctypes
import hashlib
import inspect
from types import SimpleNamespace

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, DeviceError, MissingBackendError, UnsupportedError
from edgekit.manifest import Artifact, AxisRange, TensorSpec
from edgekit.runtimes.sessions import cuda, tensorrt
from edgekit.runtimes.sessions.tensorrt_engines import (
    Device,
    cached_engine,
    find_engine,
    onnx_files,
)

ONNX = "graphs/forward/tensorrt/model.onnx"
ENGINE = "graphs/forward/tensorrt/rtx.engine"
VERSION = "1.7.1.116"
DETAILS = {
    "flavour": "rtx",
    "engines": [
        {
            "file": ENGINE,
            "compute_capabilities": ["8.0", "8.9"],
            "library": f"tensorrt-rtx {VERSION}",
        }
    ],
    "recipe": "graphs/forward/tensorrt/recipe.json",
}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))


def artifact(**changes) -> Artifact:
    given = {"target": "tensorrt", "status": "ok", "file": ONNX, "details": DETAILS}
    return Artifact(**{**given, **changes})


@pytest.fixture
def open_bundle(make_bundle):
    def make(entry: Artifact, **graph) -> Bundle:
        return Bundle.open(make_bundle({ONNX: b"onnx", ENGINE: b"engine"}, entry, **graph))

    return make


@pytest.mark.parametrize(
    ("device", "found"),
    [
        (Device("rtx", VERSION, "8.9"), True),
        (Device("rtx", VERSION, "8.6"), False),
        (Device("rtx", "1.8", "8.9"), False),
        (Device("full", VERSION, "8.9"), False),
    ],
)
def test_an_engine_must_fit_in_every_respect(open_bundle, device, found):
    bundle = open_bundle(artifact())
    path = find_engine(bundle, bundle.graph().artifacts[0], device)
    assert path == (bundle.root / ENGINE if found else None)


def test_an_engine_built_on_the_device_comes_first(open_bundle, tmp_path):
    bundle = open_bundle(artifact())
    device = Device("rtx", VERSION, "8.9")
    place = cached_engine([bundle.file(ONNX)], device)
    name = f"{hashlib.sha256(b'onnx').hexdigest()}-rtx-{VERSION}-sm89.engine"
    assert place == tmp_path / "home/cache/engines" / name
    place.parent.mkdir(parents=True)
    place.write_bytes(b"built here")
    assert find_engine(bundle, bundle.graph().artifacts[0], device) == place


def test_weights_that_lie_apart_make_another_engine(open_bundle, make_bundle, tmp_path):
    device = Device("rtx", VERSION, "8.9")
    weights = ONNX + ".data"
    entry = artifact(extra=(weights, ENGINE))
    places = set()
    for data in (b"these", b"those"):
        files = {ONNX: b"onnx", weights: data, ENGINE: b"engine"}
        with Bundle.open(make_bundle(files, entry, name=data.decode())) as bundle:
            onnx = onnx_files(bundle, bundle.graph().artifacts[0])
            assert onnx == [bundle.root / ONNX, bundle.root / weights]
            places.add(cached_engine(onnx, device))
    assert len(places) == 2


def test_an_artifact_may_be_an_engine_itself(open_bundle):
    bundle = open_bundle(artifact(file=ENGINE, details={}))
    device = Device("full", "11.0", "8.7")
    assert find_engine(bundle, bundle.graph().artifacts[0], device) == bundle.root / ENGINE


@pytest.mark.parametrize("details", [{"engines": "all"}, {"engines": [{"file": 3}]}])
def test_details_that_make_no_sense(open_bundle, details):
    bundle = open_bundle(artifact(details=details))
    with pytest.raises(BundleError, match="details of the tensorrt artifact"):
        find_engine(bundle, bundle.graph().artifacts[0], Device("rtx", VERSION, "8.9"))


def test_an_engine_outside_of_the_bundle(open_bundle):
    engine = {**DETAILS["engines"][0], "file": "../../evil.engine"}
    bundle = open_bundle(artifact(details={**DETAILS, "engines": [engine]}))
    with pytest.raises(BundleError, match="lists no file"):
        find_engine(bundle, bundle.graph().artifacts[0], Device("rtx", VERSION, "8.9"))


class FakeCuda:
    """cuda.bindings.runtime, with the host's memory as the device's."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor=75, cudaDevAttrComputeCapabilityMinor=76
    )

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array] = {}
        self.queue: list[tuple[int, int, int]] = []
        self.streams = 0

    def cudaGetDeviceCount(self):
        return 0, 1

    def cudaSetDevice(self, device):
        return (0,)

    def cudaDeviceGetAttribute(self, kind, device):
        return 0, {75: 8, 76: 9}[kind]

    def cudaStreamCreate(self):
        self.streams += 1
        return 0, 1234

    def cudaStreamDestroy(self, stream):
        self.streams -= 1
        return (0,)

    def cudaMalloc(self, size):
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, address):
        return (0,) if self.memory.pop(address, None) is not None else (1,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        block = self.memory[target if kind == 1 else source]
        if size > len(block):
            return (700,)
        self.queue.append((target, source, size))
        return (0,)

    def cudaStreamSynchronize(self, stream):
        for target, source, size in self.queue:
            ctypes.memmove(target, source, size)
        self.queue.clear()
        return (0,)

    def cudaGetErrorString(self, error):
        return 0, b"an illegal memory access was encountered"


class FakeEngine:
    """y = 2 x, for x of shape (n, 3)."""

    num_io_tensors = 2

    def __init__(self, library, device) -> None:
        self.library, self.device = library, device
        self.shape, self.addresses, self.output_shape = None, {}, None

    def create_execution_context(self):
        return self

    def get_tensor_name(self, index):
        return ("x", "y")[index]

    def get_tensor_mode(self, name):
        modes = self.library.TensorIOMode
        return modes.INPUT if name == "x" else modes.OUTPUT

    def get_tensor_dtype(self, name):
        return "DataType.FLOAT"

    def get_tensor_location(self, name):
        return self.library.TensorLocation.DEVICE

    def set_input_shape(self, name, shape):
        self.shape = shape
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def infer_shapes(self):
        return []

    def get_tensor_shape(self, name):
        return self.output_shape or self.shape

    def execute_async_v3(self, stream):
        assert stream == 1234
        self.device.cudaStreamSynchronize(stream)  # what was queued comes first
        count = int(np.prod(self.shape))
        x, y = (
            np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses[name]))
            for name in ("x", "y")
        )
        y[:] = 2 * x
        return True


class FakeLibrary:
    __version__ = VERSION
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    TensorLocation = SimpleNamespace(HOST="host", DEVICE="device")

    class Logger:
        ERROR = 1

        def __init__(self, level) -> None: ...

    def __init__(self, device) -> None:
        self.device = device

    def init_libnvinfer_plugins(self, logger, namespace):
        return True

    def nptype(self, kind):
        return np.float32

    def Runtime(self, logger):
        def deserialize(data):
            return FakeEngine(self, self.device) if data == b"engine" else None

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


@pytest.fixture
def device(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_bindings", lambda: fake)
    monkeypatch.setattr(tensorrt, "_load_libraries", lambda: {"rtx": FakeLibrary(fake)})
    return fake


CONTRACT = {
    "inputs": (TensorSpec(name="x", dtype="float32", shape=("n", 3)),),
    "outputs": (TensorSpec(name="y", dtype="float32", shape=("n", 3)),),
    "dynamic": {"n": AxisRange(min=0, max=64)},
}


def open_session(bundle: Bundle) -> tensorrt.TensorRTSession:
    graph = bundle.graph()
    return tensorrt.TensorRTSession(bundle, graph, graph.artifacts[0])


def test_a_session_moves_the_right_bytes(open_bundle, device):
    session = open_session(open_bundle(artifact(), **CONTRACT))
    kept = []
    for count in (2, 7, 1, 0, 64, 3):
        x = np.arange(count * 3, dtype=np.float32).reshape(count, 3) + count
        kept.append((x, session.run({"x": x})["y"]))
        x = np.asfortranarray(x)
        np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x)
    for x, y in kept:
        np.testing.assert_array_equal(y, 2 * x)
    assert len(device.memory) == 2
    session.close()
    assert device.memory == {}
    assert device.streams == 0


def test_what_can_fail_on_the_device(open_bundle, device, monkeypatch):
    session = open_session(open_bundle(artifact(), **CONTRACT))
    x = {"x": np.zeros((2, 3), np.float32)}
    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "execute_async_v3", lambda *_: False)
        with pytest.raises(DeviceError, match="execute_async_v3"):
            session.run(x)
    with monkeypatch.context() as patch:
        patch.setattr(FakeCuda, "cudaStreamSynchronize", lambda *_: (700,))
        patch.setattr(FakeEngine, "execute_async_v3", lambda *_: True)
        with pytest.raises(DeviceError, match="cudaStreamSynchronize failed: an illegal memory"):
            session.run(x)
    session._context.output_shape = (-1, 3)
    with pytest.raises(UnsupportedError, match="depends on the data"):
        session.run(x)


def test_nothing_is_left_on_the_device_after_a_refusal(open_bundle, device, monkeypatch):
    bundle = open_bundle(artifact())  # whose contract is not the engine's
    with pytest.raises(BundleError, match="does not fit the manifest"):
        open_session(bundle)
    monkeypatch.setattr(
        FakeLibrary,
        "Runtime",
        lambda *_: SimpleNamespace(deserialize_cuda_engine=lambda data: None),
    )
    with pytest.raises(BundleError, match="cannot be deserialized"):
        open_session(bundle)
    monkeypatch.setattr(FakeLibrary, "__version__", "2.0")
    with pytest.raises(MissingBackendError, match=r"8\.9 and tensorrt_rtx 2\.0.*edgekit build"):
        open_session(bundle)
    assert (device.memory, device.streams) == ({}, 0)


def attributes_of(module, *owners: str) -> set[str]:
    """Names that the module's source takes from expressions ending in one of ``owners``."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name in owners:
                found.add(node.attr)
    return found


def test_the_real_library_has_every_name_that_is_used():
    library = pytest.importorskip("tensorrt_rtx")
    used = attributes_of(tensorrt, "_engine", "engine")
    assert {"get_tensor_name", "get_tensor_location", "create_execution_context"} <= used
    assert used <= set(dir(library.ICudaEngine))
    used = attributes_of(tensorrt, "_context")
    assert {"execute_async_v3", "set_input_shape"} <= used
    assert used <= set(dir(library.IExecutionContext))
    assert attributes_of(tensorrt, "_library") <= set(dir(library.Runtime))
    assert attributes_of(tensorrt, "_trt") <= set(dir(library))
    assert {"INPUT", "OUTPUT"} <= set(dir(library.TensorIOMode))
    assert "HOST" in dir(library.TensorLocation)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_the_real_bindings_have_every_name_that_is_used():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    texts = (n.value for n in ast.walk(ast.parse(inspect.getsource(cuda))) if is_text(n))
    called = {text for text in texts if text.startswith("cuda") and text.isidentifier()}
    called |= attributes_of(cuda, "runtime", "_runtime")
    assert {"cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize"} <= called
    for name in called:
        assert hasattr(runtime, name), name
