"""A profile of the machine that this runs on, from what it says of itself and what is measured.

What was read is a fact; bandwidths, temperature and clocks are of the moment; the export defaults
are a first guess (the runtimes that work, fp32, a thread a core), which measurements replace.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edgekit.measurements import processor_name

from . import cpuinfo, doctor, host, machine_speed
from .jetson import ADVICE, Jetson, jetson
from .probes import gpus
from .profiles import (
    Accelerator,
    Cores,
    Defaults,
    Figure,
    Kind,
    Processor,
    Profile,
    Source,
    System,
)

# Back ends that the doctor tries -> the target whose artifacts they run.
_RUNS: Final = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt",
    "coreml": "coreml",
    "openvino": "openvino",
    "onnxruntime": "onnx",
    "executorch": "executorch",
}
BACKENDS: Final = tuple(backend for backend in doctor.BACKENDS if backend.name in _RUNS)

_PRECISION_WHY: Final = {True: "fp16 for the accelerator", False: "fp32, the network's own"}
_BF16: Final = frozenset({"avx512_bf16", "amx_bf16"})

_BOARD: Final = Path("/proc/device-tree/model")
_CPUINFO: Final = Path("/proc/cpuinfo")


def probe(advance: Callable[[], None] = lambda: None) -> Profile:
    """Read this machine, measure its memory and disk, and try its runtimes.

    Args:
        advance: called once each time that one of :data:`BACKENDS` has been tried.
    """
    import psutil

    name = cpuinfo.tidy(processor_name())
    processor = _processor(name)
    accelerators = tuple(_accelerator(text) for text in gpus())
    measured = machine_speed.measure()  # before the back ends are tried: they use both
    found = doctor.examine(BACKENDS, advance)
    board = jetson()
    one = Profile(
        name=_slug(name),
        title=name,
        kind=_kind(),
        memory_bytes=psutil.virtual_memory().total,
        processor=processor,
        accelerators=accelerators,
        system=_system(board),
        measured=measured,
        notes=(*_notes(found, processor), *_jetson_notes(board, found)),
        export=_defaults(found, processor),
        sources=(_source(()),),
    )
    return one.model_copy(update={"sources": (_source(one.figures()),)})


def _source(gives: tuple[Figure, ...]) -> Source:
    return Source(
        what="read from the machine itself, and measured there",
        where=f"edgekit devices probe on {platform.system()} {platform.machine()}",
        gives=gives,
    )


def _system(board: Jetson | None) -> System | None:
    """What ``edgekit pack`` has to know; None where it packs nothing for."""
    library, version = platform.libc_ver()
    if library != "glibc" or platform.machine() not in ("aarch64", "x86_64"):
        return None
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return System(
        os=f"{name}, {board}" if board else name,
        machine=platform.machine(),
        glibc=version,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
    )


def _jetson_notes(board: Jetson | None, found: Sequence[doctor.Diagnosis]) -> tuple[str, ...]:
    if board is None:
        return ()
    if any(one.name == "tensorrt" and one.status == "ok" for one in found):
        return (f"the GPU is used through the TensorRT of {board}: edgekit build makes engines",)
    return (f"the GPU is not used: TensorRT is not found. Next: {ADVICE}",)


def _processor(name: str) -> Processor:
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(1 << 16)
    try:
        blocks = cpuinfo.read_fields(_CPUINFO.read_text(errors="replace"), allowed)
    except OSError:  # not Linux
        blocks = {}
    kinds = cpuinfo.core_kinds(blocks)
    if len(kinds) < 2:  # the same, and sure where Linux does not tell which share a core
        kind, clock = (kinds[0].kind, kinds[0].clock_mhz) if kinds else (name, None)
        cores = (Cores(kind=kind, count=host.physical_cores(), clock_mhz=clock),)
    else:
        cores = tuple(Cores(kind=k.kind, count=k.count, clock_mhz=k.clock_mhz) for k in kinds)
    return Processor(name=name, cores=cores, isa=cpuinfo.extensions(list(blocks.values())))


def _accelerator(text: str) -> Accelerator:
    """``NVIDIA GeForce RTX 3060 (SM 86)``, as the driver's probe writes it."""
    match = re.fullmatch(r"(.*) \(SM (\d+)(\d)\)", text)
    if match is None:
        return Accelerator(kind="gpu", name=text)
    capability = f"{match[2]}.{match[3]}"
    return Accelerator(kind="gpu", name=match[1], compute_capability=capability)


def _kind() -> Kind:
    import psutil

    if _BOARD.is_file():
        return "board"
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    return "laptop" if battery is not None else "computer"


def _defaults(found: Sequence[doctor.Diagnosis], processor: Processor) -> Defaults:
    from ..runtimes import registry

    works = {_RUNS[one.name] for one in found if one.status == "ok"}
    order = [runtime.target for runtime in registry.RUNTIMES.values() if runtime.target in works]
    targets = tuple(order) or ("onnx",)
    half = targets[0] in ("tensorrt", "coreml")  # accelerators, which compute in fp16
    return Defaults(
        targets=targets,
        precision="fp16" if half else "fp32",
        threads=sum(cores.count for cores in processor.cores),
        why=f"the runtimes that work here, {registry.for_target(targets[0]).name} first; "
        f"{_PRECISION_WHY[half]}; "
        "one thread a core",
    )


def _notes(found: Sequence[doctor.Diagnosis], processor: Processor) -> tuple[str, ...]:
    openvino = any(one.name == "openvino" and one.status == "ok" for one in found)
    if not openvino or not _BF16.intersection(processor.isa):
        return ()
    return (
        "the processor computes in bf16: --target openvino --precision bf16 may be faster, "
        "at an accuracy to be compared",
    )


def _slug(name: str) -> str:
    """A profile's name from a processor's: ``amd-epyc-9654``."""
    return "-".join(re.findall(r"[a-z0-9]+", name.lower())) or "this-machine"
