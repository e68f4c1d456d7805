"""The wheels that a device needs: edgekit's, a runner's, and those of a package index."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from edgekit.bundle import Bundle
from edgekit.errors import DeviceError, MissingBackendError

from . import native_runner
from .core_wheel import DISTRIBUTION, core_wheel
from .profiles import System

# What a runtime needs beside the core. TensorRT itself is the device's own.
_OF_TARGET: Final = {"openvino": ("openvino",), "tensorrt": ("cuda-bindings",)}
# What a kind of task needs beside the core, to read its input.
_OF_TASK: Final = {
    "speech-emotion": ("soundfile", "soxr"),
    "speech-codec": ("soundfile", "soxr"),
    "speech-dialogue": ("soundfile", "soxr"),
    "prompted-detection": ("tokenizers",),
}
# What `edgekit demo` needs beside the core.
_OF_DEMOS: Final = ("starlette", "uvicorn", "websockets", "av")
# Not on any device: what turns models into graphs.
_NEVER: Final = ("torch", "torchao", "torchvision", "nvidia_")
_PIP_LIMIT_S: Final = 1800
_OLDEST_GLIBC: Final = 17


def targets_of(bundle: Bundle) -> tuple[str, ...]:
    """The targets of which a graph has an artifact that was accepted, each once."""
    found = (a.target for g in bundle.manifest.graphs for a in g.artifacts if a.status == "ok")
    return tuple(dict.fromkeys(found))


def collect(
    bundle: Bundle, system: System, python: str, folder: Path, demo: bool = False
) -> list[Path]:
    """Put every wheel that the device needs into ``folder``.

    Versions are those that are installed here, where they are: they made and verified the
    bundle.

    Args:
        python: the device's, such as ``3.11``.
        demo: also what ``edgekit demo`` needs.

    Raises:
        MissingBackendError: there is no pip here, or no compiler for the device.
        DeviceError: something cannot be downloaded, or would bring an exporter along.
    """
    targets = targets_of(bundle)
    wanted = [name for target in targets for name in _OF_TARGET.get(target, ())]
    wanted += _OF_TASK.get(bundle.manifest.task.kind, ())
    wanted += _OF_DEMOS if demo else ()
    with tempfile.TemporaryDirectory(prefix="edgekit-pack-") as temporary:
        own = core_wheel().write(Path(temporary))
        _download([str(own), *wanted], system, python, folder)
        if "executorch" in targets:
            _runner(system, python, Path(temporary)).write(folder)
    found = sorted(folder.glob("*.whl"))
    if astray := [path.name for path in found if path.name.lower().startswith(_NEVER)]:
        raise DeviceError("a kit must not hold an exporter", f"pip brought {astray[0]}")
    return found


def download_pip(system: System, python: str, folder: Path) -> None:
    """pip's own wheel, from which a kit is installed; errors as in :func:`collect`."""
    _download(["pip"], system, python, folder)


def _runner(system: System, python: str, temporary: Path) -> native_runner.Wheel:
    place = native_runner.installed(system.machine)
    if place is None:
        source = temporary / "executorch"
        wanted = [f"executorch=={native_runner.EXECUTORCH}"]
        _download(wanted, system, python, source, "--no-deps")
        place = next(source.glob("*.whl"))
    return native_runner.runner_wheel(place, system.machine)


def _download(
    wanted: Sequence[str], system: System, python: str, folder: Path, *options: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", prefix="edgekit-pins-") as pins:
        pins.write("\n".join(_pins()))
        pins.flush()
        command = [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download"),
            *("--quiet", "--dest", str(folder), "--only-binary=:all:", "--prefer-binary"),
            *("--implementation", "cp", "--python-version", python, "-c", pins.name),
            *(word for tag in platforms(system) for word in ("--platform", tag)),
            *(*options, *wanted),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PIP_LIMIT_S
        )
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise MissingBackendError("nothing can be packed", "there is no pip", "python -m ensurepip")
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    reason = (errors or done.stderr.strip().splitlines() or ["pip failed"])[-1]
    raise DeviceError(
        f"the wheels for {system.machine} and Python {python} cannot be had",
        reason.removeprefix("ERROR: "),
        "look at the network, or choose another --python",
    )


def platforms(system: System) -> Iterator[str]:
    """The platform tags whose wheels the device can load, newest first (PEP 600)."""
    newest = int(system.glibc.partition(".")[2])
    for minor in range(newest, _OLDEST_GLIBC - 1, -1):
        yield f"manylinux_2_{minor}_{system.machine}"
    yield f"manylinux2014_{system.machine}"
    yield f"linux_{system.machine}"


def _pins() -> Iterator[str]:
    """Of all that is installed here, edgekit and builds with a local version left out."""
    for found in importlib.metadata.distributions():
        name, version = found.metadata["Name"], found.version
        if name and version and "+" not in version and name != DISTRIBUTION:
            yield f"{name}=={version}"
