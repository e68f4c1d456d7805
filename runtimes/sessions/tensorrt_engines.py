"""Which engine a device can run: one built there before, or one that the bundle brings.

An engine fits one flavour of the library, its exact version, and one compute capability
(or the several that it was compiled for). ``edgekit build`` puts engines where
:func:`cached_engine` looks for them.
"""

from __future__ import annotations

import hashlib
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


def cached_engine(onnx: Path, device: Device) -> Path:
    """Where the engine built on this device from the ONNX file lies, or would lie."""
    with open(onnx, "rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    processor = "sm" + device.capability.replace(".", "")
    name = f"{sha256}-{device.flavour}-{device.version}-{processor}{_ENGINE}"
    return cache_dir() / "engines" / name


def find_engine(files: Files, artifact: Artifact, device: Device) -> Path | None:
    """The engine of ``artifact`` that fits ``device``; None if there is none.

    Raises:
        BundleError: the artifact's details make no sense, or its engine is damaged.
    """
    graph = artifact.file or ""
    if graph.endswith(_ENGINE):
        return files.file(graph)
    cached = cached_engine(files.file(graph), device)
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
