"""Building TensorRT engines from ONNX: ahead of time on a host, or on the device itself.

Full TensorRT (Jetson, data-centre GPUs) and TensorRT for RTX have the same Python API.
TensorRT for RTX compiles for named compute capabilities without a GPU; full TensorRT
compiles for the GPU that it finds. Precision is a property of the graph: networks are
strongly typed, and no precision flag is set (TensorRT 11 has none).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from edgekit.bundle import Files
from edgekit.errors import MissingBackendError, UnsupportedError
from edgekit.manifest import Artifact, AxisRange, Graph, TensorSpec

from .sessions.tensorrt_engines import PACKAGES, Device, cached_engine, onnx_files

INSTALL: Final = {
    "rtx": 'pip install "edgekit-toolkit[tensorrt]"',
    "full": "install TensorRT (on Jetson it comes with JetPack; elsewhere: pip install tensorrt)",
}

# NVIDIA Ampere (A100; RTX 30), Ada (RTX 40, L4) and Blackwell (RTX 50).
CAPABILITIES: Final = ("8.0", "8.6", "8.9", "12.0")


@dataclass(frozen=True)
class Problem:
    """Why the ONNX parser refused: operator, node and its words; index -1 if it does not say."""

    index: int
    operator: str
    node: str
    why: str


class ParserRefusedError(UnsupportedError):
    """TensorRT's ONNX parser does not take the graph; ``problems`` says where."""

    def __init__(
        self, what: str, why: str = "", next_step: str = "", problems: Sequence[Problem] = ()
    ) -> None:
        super().__init__(what, why, next_step)
        self.problems = tuple(problems)


def library(flavour: str) -> ModuleType:
    """The Python module of a flavour (``rtx`` or ``full``).

    Raises:
        MissingBackendError: it is not installed, or its native library does not load.
    """
    try:
        return importlib.import_module(PACKAGES[flavour])
    except (ImportError, OSError) as error:
        raise MissingBackendError(
            f"TensorRT ({flavour}) is not installed", str(error), INSTALL[flavour]
        ) from error


def build_engine(
    flavour: str,
    onnx: Path,
    inputs: Sequence[TensorSpec],
    dynamic: Mapping[str, AxisRange],
    capabilities: Sequence[str] | None = None,
) -> bytes:
    """Compile an ONNX file into a serialised engine.

    Args:
        flavour: ``rtx`` or ``full``.
        inputs, dynamic: the graph's contract; dynamic axes become one optimisation profile
            whose optimum is the middle of each range.
        capabilities: compute capabilities such as ``8.9`` to compile for, without a GPU
            (TensorRT for RTX only); None compiles for the GPU of this machine.

    Raises:
        MissingBackendError: the library is not here.
        ParserRefusedError: the parser does not take an operator.
        UnsupportedError: the builder gave no engine.
    """
    trt = library(flavour)
    said = _Log(trt)
    builder = trt.Builder(said.logger)
    if builder is None:
        raise MissingBackendError(f"TensorRT ({flavour}) cannot start", said.last())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, onnx, said)
    config = builder.create_builder_config()
    # TF32 keeps 10 bits of a float's 23: the user asked for what is in the graph.
    config.clear_flag(trt.BuilderFlag.TF32)
    if any(isinstance(size, str) for spec in inputs for size in spec.shape):
        config.add_optimization_profile(_profile(builder, inputs, dynamic))
    if capabilities is not None:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            capability = getattr(trt.ComputeCapability, f"SM{name.replace('.', '')}")
            config.set_compute_capability(capability, index)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UnsupportedError(f"TensorRT ({flavour}) built no engine", said.last())
    return bytes(engine)


def build_on_device(files: Files, graph: Graph, artifact: Artifact) -> Path:
    """Compile a bundle's ONNX file for the GPU of this machine, into the engine cache.

    Full TensorRT is taken where it is installed, else TensorRT for RTX. An engine that was
    built before for the same graph, library and GPU is kept.

    Returns:
        the engine's file, where :class:`.sessions.tensorrt.TensorRTSession` finds it.

    Raises:
        MissingBackendError: there is no library, driver or GPU.
        ParserRefusedError, UnsupportedError: as in :func:`build_engine`.
    """
    from .sessions.cuda import Gpu

    flavour = next((name for name in ("full", "rtx") if find_spec(PACKAGES[name])), "full")
    trt = library(flavour)
    gpu = Gpu()
    try:
        device = Device(flavour, trt.__version__, gpu.capability)
    finally:
        gpu.close()
    onnx = onnx_files(files, artifact)  # all checked: the parser opens weights by itself
    place = cached_engine(onnx, device)
    if not place.is_file():
        engine = build_engine(flavour, onnx[0], graph.inputs, graph.dynamic)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part")
        part.write_bytes(engine)
        part.replace(place)
    return place


def _parse(trt: ModuleType, network: Any, onnx: Path, said: _Log) -> None:
    parser = trt.OnnxParser(network, said.logger)
    if parser.parse_from_file(str(onnx)):
        return
    problems = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        # Where it does not name the operator, the function that refused it does.
        operator = error.node_operator() or (error.func() or "").removeprefix("import")
        problems.append(Problem(error.node(), operator, error.node_name(), error.desc()))
    first = problems[0] if problems else Problem(-1, "", "", said.last())
    raise ParserRefusedError(
        f"tensorrt does not take the operator {first.operator} (node {first.node})",
        first.why,
        problems=problems,
    )


def _profile(builder: Any, inputs: Sequence[TensorSpec], dynamic: Mapping[str, AxisRange]) -> Any:
    profile = builder.create_optimization_profile()
    for spec in inputs:

        def shape(pick: str, spec: TensorSpec = spec) -> tuple[int, ...]:
            return tuple(
                size if isinstance(size, int) else _pick(dynamic[size], pick) for size in spec.shape
            )

        profile.set_shape(spec.name, shape("min"), shape("middle"), shape("max"))
    return profile


def _pick(limits: AxisRange, which: str) -> int:
    return (limits.min + limits.max) // 2 if which == "middle" else getattr(limits, which)


class _Log:
    """Keeps what TensorRT says instead of printing it."""

    def __init__(self, trt: ModuleType) -> None:
        lines: list[str] = []
        errors = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                if severity in errors:
                    lines.append(text)

        self.logger, self._lines = Logger(), lines

    def last(self) -> str:
        """What was said last before a failure."""
        return self._lines[-1] if self._lines else "it gave no reason"
