"""What is installed and works here, back end by back end, and what to install.

Each back end is tried in a process of its own (:mod:`edgekit.devices.probes`), so that one
that crashes or hangs is a row of the table and not the end of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from .child import Child
from .jetson import ADVICE, jetson

_OF_THE_SYSTEM = ("tensorrt", "tensorrt-rtx")
TIMEOUT_S = 120.0

Status = Literal["ok", "limited", "missing", "broken"]


@dataclass(frozen=True)
class Backend:
    """What to try: ``module`` is importable where it is installed, ``purpose`` says what it
    is needed for and ``install`` how to get it. ``core``: edgekit cannot do without.
    ``instead``: a module that can run what it makes where it is not installed."""

    name: str
    module: str
    purpose: str
    install: str
    core: bool = False
    instead: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What came out for one back end.

    Attributes:
        status: ``ok`` works; ``limited`` works but cannot run here what it makes (no GPU,
            not macOS); ``missing`` is not installed; ``broken`` is installed and fails.
        devices: what it can compute on here. detail: what was tried, or the first line of
            the error. install: the command that mends it, empty where nothing is to mend.
    """

    name: str
    status: Status
    purpose: str
    version: str | None = None
    devices: tuple[str, ...] = ()
    detail: str = ""
    install: str = ""
    core: bool = False


def _extra(name: str) -> str:
    return f'pip install "edgekit-toolkit[{name}]"'


BACKENDS = (
    Backend("onnxruntime", "onnxruntime", "run, bench", "pip install onnxruntime", core=True),
    Backend("openvino", "openvino", "export, run", _extra("openvino")),
    Backend(
        "executorch",
        "executorch",
        "export, run",
        _extra("executorch"),
        instead="edgekit_executorch",
    ),
    Backend("coreml", "coremltools", "export; run on macOS", _extra("coreml")),
    Backend("tensorrt-rtx", "tensorrt_rtx", "export; run on RTX GPUs", _extra("tensorrt")),
    Backend("tensorrt", "tensorrt", "build, run on NVIDIA GPUs", "pip install tensorrt"),
    Backend("torch", "torch", "export", _extra("export")),
    Backend("onnx", "onnx", "export", _extra("export")),
    Backend("transformers", "transformers", "export hf:FOLDER", _extra("hf")),
    Backend("timm", "timm", "export timm:NAME", "pip install --no-deps timm torchvision"),
)


def examine(
    backends: Iterable[Backend] = BACKENDS, advance: Callable[[], None] = lambda: None
) -> list[Diagnosis]:
    """Try every back end and say what came out, in the order given.

    Args:
        advance: called once each time that a back end is done.
    """

    def one(backend: Backend) -> Diagnosis:
        diagnosis = diagnose(backend)
        advance()
        return diagnosis

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # they mostly wait for the disk
        return list(pool.map(one, backends))


def diagnose(backend: Backend, timeout: float = TIMEOUT_S) -> Diagnosis:
    """Try one back end in a process of its own."""
    modules = [backend.module, *([backend.instead] if backend.instead else [])]
    if all(importlib.util.find_spec(module) is None for module in modules):
        return Diagnosis(
            backend.name,
            "missing",
            backend.purpose,
            detail="not installed",
            install=_install(backend),
            core=backend.core,
        )
    finding = _probe(backend.name, timeout)
    broken = "error" in finding
    return Diagnosis(
        name=backend.name,
        status="broken" if broken else "limited" if finding.get("limited") else "ok",
        purpose=backend.purpose,
        version=finding.get("version"),
        devices=tuple(finding.get("devices", ())),
        detail=finding["error"] if broken else finding["detail"],
        install=_install(backend) if broken else "",
        core=backend.core,
    )


def _install(backend: Backend) -> str:
    """How to get it: on a Jetson, TensorRT is the system's and no wheel fits."""
    return ADVICE if backend.name in _OF_THE_SYSTEM and jetson() else backend.install


def _probe(name: str, timeout: float) -> dict:
    child = Child("edgekit.devices.probes", name)
    try:
        said = child.finish(timeout)
        return json.loads(said) if said else {"error": child.epitaph()}
    except TimeoutError as error:
        return {"error": str(error)}
    finally:
        child.close()
