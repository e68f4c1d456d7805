"""What this machine is and how busy it is: the facts that a measured figure depends on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from edgekit.cores import usable_cores
from edgekit.measurements import host_fingerprint, processor_name

#: Packages whose versions change what runs: distribution -> what we call it.
_TOOLS = {
    "edgekit-toolkit": "edgekit",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "onnxruntime-gpu": "onnxruntime-gpu",
    "openvino": "openvino",
    "executorch": "executorch",
    "torch": "torch",
    "tensorrt": "tensorrt",
    "tensorrt-rtx-cu13": "tensorrt-rtx",
    "coremltools": "coremltools",
}


def describe() -> dict[str, Any]:
    """The machine as one JSON object: ``cpu``, ``cores`` (physical, as far as this process
    may use them), ``logical_cores``, ``memory_mb``, ``system``, ``machine``, ``python``,
    ``tools`` (versions), ``governor`` and ``temperature_c`` (None where not readable) and
    ``fingerprint``."""
    import psutil

    return {
        "cpu": processor_name(),
        "cores": physical_cores(),
        "logical_cores": usable_cores(),
        "memory_mb": round(psutil.virtual_memory().total / 1e6),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "tools": tool_versions(),
        "governor": governor(),
        "temperature_c": temperature(),
        "fingerprint": host_fingerprint(),
    }


def physical_cores() -> int:
    """Physical cores, never more than this process may run on."""
    import psutil

    return min(psutil.cpu_count(logical=False) or usable_cores(), usable_cores())


def load_average() -> float | None:
    """Processes that wanted to run over the last minute; None where the system has none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def tool_versions() -> dict[str, str]:
    """Installed versions of what measures and of every runtime, by name."""
    versions = {}
    for distribution, name in _TOOLS.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(distribution)
    return versions


def governor() -> str | None:
    """The frequency governor of the first core (``powersave`` measures slowly)."""
    return _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def temperature() -> float | None:
    """The hottest thermal zone in degrees Celsius: hot boards slow down."""
    zones = Path("/sys/class/thermal").glob("thermal_zone*/temp")
    texts = [text for zone in zones if (text := _read(zone))]
    values = [int(text) / 1000 for text in texts if text.lstrip("-").isdigit()]
    return round(max(values), 1) if values else None


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
