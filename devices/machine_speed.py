"""How fast this machine's memory and disk are, and whether heat or power holds it back."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from edgekit.paths import cache_dir

from . import host
from .profiles import Measured

_LARGEST: Final = 256 << 20  # bytes of an array that is copied: past any cache
_SHARE: Final = 16  # of all memory, one in so many for an array
_REPEAT: Final = 5
_FILE: Final = 128 << 20
_CHUNK: Final = 4 << 20
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})

_FIRMWARE: Final = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_NOW: Final = 0xF  # bits of what holds a Raspberry Pi back now; those above are of the past
_COOLING: Final = Path("/sys/class/thermal")


def measure() -> Measured:
    """Measure all of it: about two seconds of work, and a file of 128 MiB that is removed."""
    threads = host.physical_cores()
    found = {count: copy_bandwidth(count) for count in sorted({1, threads})}
    best = max(found, key=lambda count: found[count])
    # The folder itself need not be there yet, and is not made for this.
    place = next(folder for folder in (cache_dir(), *cache_dir().parents) if folder.is_dir())
    write, read = disk_bandwidth(place)
    return Measured(
        memory_bandwidth=found[best],
        memory_threads=best,
        disk_read_bandwidth=read,
        disk_write_bandwidth=write,
        governor=host.governor(),
        temperature_c=host.temperature(),
        throttled=throttled(),
    )


def copy_bandwidth(threads: int, size: int | None = None) -> int:
    """Bytes a second, read and written together, that so many threads copy at best.

    Args:
        size: bytes of the array that is copied; None: 256 MiB, or less on a small machine.
    """
    import psutil

    size = size or min(_LARGEST, psutil.virtual_memory().total // _SHARE)
    # Written first: pages that were never touched are all one page of zeros.
    source, sink = np.ones(size, np.uint8), np.ones(size, np.uint8)
    edges = np.linspace(0, size, threads + 1, dtype=np.int64)
    parts = [(sink[a:b], source[a:b]) for a, b in itertools.pairwise(edges)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:  # NumPy copies without Python's lock
        for _ in range(_REPEAT):
            start = time.perf_counter()
            list(pool.map(lambda part: np.copyto(*part), parts))
            best = min(best, time.perf_counter() - start)
    return round(2 * size / best)


def disk_bandwidth(folder: Path, size: int = _FILE) -> tuple[int | None, int | None]:
    """Bytes a second of writing, to the disk and not into its cache, and of reading again.

    None, None where the folder is in memory, cannot be written, or has less than four times
    ``size`` free.
    """
    try:
        if _in_memory(folder) or shutil.disk_usage(folder).free < 4 * size:
            return None, None
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".speed-") as file:
            return _write(file.fileno(), size), _read(file.fileno(), size)
    except OSError:
        return None, None


def _write(descriptor: int, size: int) -> int:
    # Noise: some disks and file systems compress, or store no zeros.
    chunk = np.random.default_rng(0).integers(0, 256, _CHUNK, np.uint8).tobytes()
    start = time.perf_counter()
    for _ in range(size // _CHUNK):
        os.write(descriptor, chunk)
    os.fsync(descriptor)
    return round(size / (time.perf_counter() - start))


def _read(descriptor: int, size: int) -> int | None:
    if not hasattr(os, "posix_fadvise"):
        return None  # it would come from the system's cache
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.lseek(descriptor, 0, os.SEEK_SET)
    start = time.perf_counter()
    while os.read(descriptor, _CHUNK):
        pass
    return round(size / (time.perf_counter() - start))


def _in_memory(folder: Path) -> bool:
    import psutil

    place, kind = "", ""
    for mount in psutil.disk_partitions(all=True):
        inside = folder.resolve().is_relative_to(mount.mountpoint)
        if inside and len(mount.mountpoint) >= len(place):
            place, kind = mount.mountpoint, mount.fstype
    return kind in _IN_MEMORY


def throttled(firmware: Path = _FIRMWARE, cooling: Path = _COOLING) -> bool | None:
    """Whether heat or power holds the processor back now; None where the system does not say.

    A Raspberry Pi's firmware says so; elsewhere Linux's cooling devices of the processor do.
    """
    with contextlib.suppress(OSError, ValueError):
        return bool(int(firmware.read_text().strip(), 16) & _NOW)
    states = []
    for device in cooling.glob("cooling_device*"):
        with contextlib.suppress(OSError, ValueError):
            kind = (device / "type").read_text().lower()
            if "cpu" in kind or "processor" in kind:
                states.append(int((device / "cur_state").read_text()))
    return any(states) if states else None
