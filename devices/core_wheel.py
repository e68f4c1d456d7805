"""edgekit itself as a wheel, made of what is installed here.

From the installed files and not from a source tree: what a device gets is what made and verified
the bundle, also where edgekit came from a package index.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgekit.errors import MissingBackendError

from .wheel_file import Wheel

DISTRIBUTION: Final = "edgekit-toolkit"
ROOMS: Final = ("", "models", "quant", "export", "runtimes", "devices", "apps")

# Of a source tree: nothing that is no part of the packages.
_LEFT_OUT: Final = frozenset({"__pycache__"})


def core_wheel() -> Wheel:
    """The wheel of this installation of edgekit.

    Raises:
        MissingBackendError: edgekit is on the path but not installed, so nothing says what it
            needs.
    """
    try:
        found = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingBackendError(
            "edgekit cannot be packed", f"{DISTRIBUTION} is not installed", "pip install -e ."
        ) from error
    # A wheel's installation has METADATA, an editable one of setuptools may have PKG-INFO.
    metadata = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
    return Wheel(
        name=DISTRIBUTION,
        version=found.version,
        tag="py3-none-any",
        pure=True,
        files=dict(_files()),
        metadata=metadata,
        entry_points=found.read_text("entry_points.txt") or "",
    )


def _files() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        spec = importlib.util.find_spec(f"edgekit.{room}" if room else "edgekit")
        for place in (spec.submodule_search_locations if spec else None) or ():
            root = Path(place)
            for path in sorted(root.rglob("*")):
                inside = path.relative_to(root)
                other = not room and inside.parts[0] in ROOMS  # installed: rooms lie inside
                if path.is_file() and not other and not _LEFT_OUT.intersection(inside.parts):
                    yield str(Path("edgekit", room, inside).as_posix()), path
