"""Which engine a device can run: one built there before, or one that the bundle brings.

An engine fits one flavour of the library, its exact version, and one compute capability
(or the several that it was compiled for). ``edgekit build`` puts engines where
:func:`cached_engine` looks for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from edgekit.bundle import Files
from edgekit.errors import BundleError
from edgekit.manifest import Artifact
from edgekit.paths import cache_dir

#: Import package of each flavour of the library; their Python interfaces are the same.
PACKAGES: Final = {"full": "tensorrt", "rtx": "tensorrt_rtx"}
_ENGINE: Final = ".engine"


class _Prebuilt(BaseModel):
    model_config = ConfigDict(frozen=True)

    file: str
    compute_capabilities: tuple[str, ...]
    library: str  # "tensorrt-rtx 1.7.1.116"


class _Details(BaseModel):
    model_config = ConfigDict(frozen=True)

    flavour: str = "rtx"
    engines: tuple[_Prebuilt, ...] = ()


@dataclass(frozen=True)
class Device:
    """What an engine must fit: flavour and version of the library, compute capability."""

    flavour: str
    version: str
    capability: str


def onnx_files(files: Files, artifact: Artifact) -> list[Path]:
    """The artifact's ONNX file and the files with its weights, where they lie apart."""
    weights = [name for name in artifact.extra if not name.endswith((_ENGINE, ".json"))]
    return [files.file(name) for name in (artifact.file or "", *weights)]


def cached_engine(onnx: Sequence[Path], device: Device) -> Path:
    """Where the engine built on this device from :func:`onnx_files` lies, or would lie."""
    sums = [_sha256(path) for path in onnx]
    # Two models may differ in their weights alone, and those may lie apart.
    key = sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
    processor = "sm" + device.capability.replace(".", "")
    name = f"{key}-{device.flavour}-{device.version}-{processor}{_ENGINE}"
    return cache_dir() / "engines" / name


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_engine(files: Files, artifact: Artifact, device: Device) -> Path | None:
    """The engine of ``artifact`` that fits ``device``; None if there is none.

    Raises:
        BundleError: the artifact's details make no sense, or its engine is damaged.
    """
    graph = artifact.file or ""
    if graph.endswith(_ENGINE):
        return files.file(graph)
    cached = cached_engine(onnx_files(files, artifact), device)
    if cached.is_file():
        return cached
    try:
        details = _Details.model_validate(artifact.details)
    except ValidationError as e:
        problem = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BundleError(
            "the details of the tensorrt artifact are not valid", f"{where}: {problem['msg']}"
        ) from None
    if details.flavour != device.flavour:
        return None
    for engine in details.engines:
        version = engine.library.rpartition(" ")[2]
        if version == device.version and device.capability in engine.compute_capabilities:
            return files.file(engine.file)
    return None
