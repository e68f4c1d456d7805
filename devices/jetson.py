"""What a Jetson says of its system software, and what to use there in place of PyPI's wheels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: What to do where TensorRT is not found on a Jetson.
ADVICE: Final = (
    "sudo apt-get install nvidia-jetpack (PyPI has no wheels for Jetson's GPU; edgekit must run "
    "on the system's Python, in an environment made with --system-site-packages)"
)

_LONGEST: Final = 64 << 20  # of dpkg's list


@dataclass(frozen=True)
class Jetson:
    """``l4t``: the release of Jetson Linux, such as R36.4.7; ``jetpack``: the version of the
    package of all of JetPack, None where it is not installed."""

    l4t: str
    jetpack: str | None

    def __str__(self) -> str:
        return f"JetPack {self.jetpack} (L4T {self.l4t})" if self.jetpack else f"L4T {self.l4t}"


def jetson(root: Path = Path("/")) -> Jetson | None:
    """The Jetson that this is; None on any other machine.

    Args:
        root: of its file system.
    """
    text = _read(root / "etc/nv_tegra_release")
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    if found is None:
        return None
    status = _read(root / "var/lib/dpkg/status")
    package = re.search(
        r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: ([\d.]+)", status, re.MULTILINE
    )
    return Jetson(f"R{found[1]}.{found[2]}", package[1] if package else None)


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.read(_LONGEST)
    except OSError:
        return ""
