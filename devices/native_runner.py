"""The native ExecuTorch runner for a device, as a wheel: compiled against ExecuTorch's own wheel.

ExecuTorch's Python runtime links libtorch. Its wheel also holds the C++ runtime as shared
libraries, with their headers, for each processor: enough for a program without torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import platform
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from edgekit.errors import DeviceError, MissingBackendError

from ..runtimes.sessions.executorch_native import LIBRARY, PACKAGE
from .wheel_file import Wheel

#: The version whose library formats and headers the runner is written for.
EXECUTORCH: Final = "1.5.1"
DISTRIBUTION: Final = "edgekit-toolkit-executorch"

# With the runner they are all that it needs; etdump, QNN and OpenVINO are not used.
_LIBRARIES: Final = (
    "libexecutorch.so",
    "libexecutorch_kernels_optimized.so",
    "libexecutorch_kernels_quantized.so",
    "libexecutorch_backend_xnnpack.so",
    "libexecutorch_threadpool.so",
)
_COMPILERS: Final = {
    "aarch64": ("aarch64-linux-gnu-g++", "apt-get install g++-aarch64-linux-gnu"),
    "x86_64": ("x86_64-linux-gnu-g++", "apt-get install g++-x86-64-linux-gnu"),
}
_COMPILE_LIMIT_S: Final = 600

_METADATA: Final = f"""\
Metadata-Version: 2.1
Name: {DISTRIBUTION}
Version: {EXECUTORCH}
Summary: ExecuTorch's C++ runtime behind a few C functions, for edgekit without torch.
License: BSD-3-Clause
"""


def runner_wheel(executorch: Path, machine: str) -> Wheel:
    """Compile the runner and put it beside ExecuTorch's libraries.

    Args:
        executorch: the wheel of ExecuTorch :data:`EXECUTORCH` for that machine, or the folder
            that it is installed in (:func:`installed`).
        machine: ``aarch64`` or ``x86_64``.

    Raises:
        MissingBackendError: there is no compiler for that machine here.
        DeviceError: the compiler refuses.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-runner-") as folder:
        root = executorch
        if executorch.is_file():
            root = Path(folder)
            _unpack(executorch, root)
        made = _compile(root / "executorch", Path(folder) / LIBRARY, machine)
        libraries = {name: root / "executorch" / "lib" / name for name in _LIBRARIES}
        licence = next(root.glob(f"executorch-{EXECUTORCH}.dist-info/**/LICENSE"))
        files = {
            f"{PACKAGE}/__init__.py": b'"""Libraries that edgekit loads through ctypes."""\n',
            f"{PACKAGE}/LICENSE.executorch": licence.read_bytes(),
            **{
                f"{PACKAGE}/lib/{name}": path.read_bytes()
                for name, path in {**libraries, LIBRARY: made}.items()
            },
        }
    return Wheel(
        name=DISTRIBUTION,
        version=EXECUTORCH,
        tag=f"py3-none-linux_{machine}",
        pure=False,
        files=files,
        metadata=_METADATA,
    )


def installed(machine: str) -> Path | None:
    """Where ExecuTorch :data:`EXECUTORCH` is installed here, if it is and for that machine."""
    try:
        found = importlib.metadata.distribution("executorch")
    except importlib.metadata.PackageNotFoundError:
        return None
    root = Path(str(found.locate_file("")))
    fits = found.version == EXECUTORCH and platform.machine() == machine
    return root if fits and (root / "executorch" / "lib" / _LIBRARIES[0]).is_file() else None


def _unpack(wheel: Path, root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        wanted = [
            name
            for name in archive.namelist()
            if name.startswith(("executorch/include/", "executorch/lib/lib"))
            or name.endswith("/LICENSE")
        ]
        archive.extractall(root, wanted)


def compiler(machine: str) -> str:
    """The C++ compiler for a machine.

    Raises:
        MissingBackendError: there is none; says what to install.
    """
    own = platform.machine() == machine
    cross, package = _COMPILERS.get(machine, ("", ""))
    for name in ("c++", "g++") if own else (cross,):
        if name and shutil.which(name):
            return name
    raise MissingBackendError(
        "the ExecuTorch runner cannot be compiled",
        f"there is no C++ compiler for {machine}",
        "apt-get install g++" if own else package,
    )


def _compile(executorch: Path, out: Path, machine: str) -> Path:
    include, library = executorch / "include", executorch / "lib"
    package = importlib.resources.files("edgekit.runtimes") / "native" / "executorch_runner.cpp"
    with importlib.resources.as_file(package) as source:
        command = [
            compiler(machine),
            *("-std=c++17", "-O2", "-fPIC", "-shared", "-Wno-deprecated-declarations"),
            # Its headers ask for one that its build generates and its wheel leaves out.
            "-DC10_USING_CUSTOM_GENERATED_MACROS",
            *("-isystem", str(include)),
            *("-isystem", str(include / "executorch/runtime/core/portable_type/c10")),
            *(str(source), "-o", str(out), f"-L{library}"),
            # Kernels and back ends register themselves: nothing refers to their libraries.
            "-Wl,--no-as-needed",
            *(f"-l{name.removeprefix('lib').removesuffix('.so')}" for name in _LIBRARIES),
            *("-Wl,-rpath,$ORIGIN", f"-Wl,-rpath-link,{library}"),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_COMPILE_LIMIT_S
        )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise DeviceError("the ExecuTorch runner cannot be compiled", errors[0].strip()[-240:])
    return out
