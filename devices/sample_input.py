"""Something to feed a bundle where the user named nothing: a real photograph if one is here.

Speed hardly depends on what a picture shows, but decoding does depend on its size and on
being a photograph, so a real one is preferred over noise.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import UsageError
from edgekit.manifest import Graph

from ..runtimes.synthetic_sweep import synthetic_sweep
from ..runtimes.tasks import TASKS
from ..runtimes.tasks.lidar_detection import LidarDetection

#: Photographs that packages ship, in the order of our preference.
_PHOTOGRAPHS = (
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
)
_PICTURE_SIZE = (640, 480)
_SEED = 0


@dataclass(frozen=True)
class SampleInput:
    """A file to feed, and what it is in words (for the reader of the figures)."""

    path: Path
    what: str


def sample_input(kind: str, graph: Graph, folder: Path) -> SampleInput:
    """An input for a task of this kind; what has to be made is written into ``folder``.

    Raises:
        UsageError: nothing sensible can be made up for this kind of task.
    """
    if kind == "tensors":
        return SampleInput(_random_tensors(graph, folder), "random tensors (seed 0)")
    if kind == LidarDetection.kind:
        np.save(folder / "sweep.npy", points := synthetic_sweep())
        return SampleInput(folder / "sweep.npy", f"a synthetic sweep of {len(points)} points")
    if kind not in TASKS or not TASKS[kind].takes_pictures:
        raise UsageError(f"nothing here to feed a {kind} task", "", "give one with --input FILE")
    photograph = installed_photograph()
    if photograph is not None:
        return SampleInput(photograph, f"the photograph {photograph.name}")
    width, height = _PICTURE_SIZE
    return SampleInput(_synthetic_picture(folder), f"a synthetic {width}x{height} picture")


def installed_photograph() -> Path | None:
    """A real photograph that an installed package ships (found without importing it)."""
    for package, relative in _PHOTOGRAPHS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin:
            path = Path(spec.origin).parent / relative
            if path.is_file():
                return path
    return None


def _synthetic_picture(folder: Path) -> Path:
    """A smooth gradient with some noise: it compresses about as well as a photograph."""
    from PIL import Image

    width, height = _PICTURE_SIZE
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    noise = np.random.default_rng(_SEED).normal(0, 8, smooth.shape)
    path = folder / "synthetic.jpg"
    Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def _random_tensors(graph: Graph, folder: Path) -> Path:
    """Normal floats, zeros for integers and booleans; a dynamic axis gets its least size."""
    random = np.random.default_rng(_SEED)
    least = {axis: limits.min for axis, limits in graph.dynamic.items()}
    arrays = {}
    for spec in graph.inputs:
        shape = [axis if isinstance(axis, int) else least.get(axis, 1) for axis in spec.shape]
        dtype = np.dtype(spec.dtype)
        floating = np.issubdtype(dtype, np.floating)
        values = random.standard_normal(shape) if floating else np.zeros(shape)
        arrays[spec.name] = values.astype(dtype)
    path = folder / "random.npz"
    np.savez(path, **arrays)
    return path
