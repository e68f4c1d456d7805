"""Pictures for training: prepared as a device prepares them, varied as training needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from edgekit.errors import InputError
from edgekit.manifest import TaskInfo, TensorSpec

from ...runtimes.labelled_pictures import LabelledPictures
from ...runtimes.tasks.classification import Classification

MAX_BYTES: Final = 4 << 30  # of all pictures in memory; a recipe for more would read as it goes


@dataclass(frozen=True)
class PictureSet:
    """Pictures in memory, resized and cropped but not normalised.

    Attributes:
        pixels: uint8 (N, 3, height, width). classes: int64 (N,), an index each.
    """

    pixels: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Normalisation:
    """``(pixels / 255 - mean) / std`` per channel, in the arithmetic of the deployed task."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, height, width) to float32 of the same shape."""
        mean, std = np.array(self.mean), np.array(self.std)
        scale, shift = (1 / 255 / std).astype(np.float32), (-mean / std).astype(np.float32)
        columns = (torch.from_numpy(values).view(1, 3, 1, 1) for values in (scale, shift))
        return pixels.float().mul_(next(columns)).add_(next(columns))


def read_pictures(
    pictures: LabelledPictures,
    params: Mapping[str, Any],
    advance: Callable[[], None] = lambda: None,
) -> PictureSet:
    """All pictures through the classification task's own preprocessing, up to normalisation.

    Args:
        params: of the task: ``resolution``, ``resize``, ``interpolation`` and what else there is.
        advance: called after each picture.

    Raises:
        InputError: a picture cannot be decoded, or all of them do not fit into memory.
    """
    # Normalised by nothing, the task gives the pixels themselves: whole numbers up to 255.
    plain = {**params, "scale": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    task = task_alone(plain)
    size = task.params.size
    if (total := len(pictures) * 3 * size[0] * size[1]) > MAX_BYTES:
        raise InputError(
            f"{len(pictures):,} pictures of {size[0]}x{size[1]} take {total / 2**30:.1f} GiB",
            "this recipe keeps them in memory",
            "choose a lower --resolution",
        )
    pixels = np.empty((len(pictures), 3, *size), np.uint8)
    for place, (source, _) in zip(pixels, pictures, strict=True):
        (prepared,) = task.prepare(source).values()
        place[...] = prepared[0]
        advance()
    classes = torch.from_numpy(pictures.classes.astype(np.int64))
    return PictureSet(torch.from_numpy(pixels), classes)


def task_alone(params: Mapping[str, Any]) -> Classification:
    """The classification task without a bundle or a session: its way from a file to a tensor."""
    height, width = _size(params["resolution"])
    contract = SimpleNamespace(
        inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 3, height, width)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(1, "classes")),),
        dynamic={},
    )
    manifest = SimpleNamespace(task=TaskInfo(kind=Classification.kind, params=dict(params)))
    draft: Any = SimpleNamespace(manifest=manifest, path="(being trained)")
    return Classification(draft, contract)  # type: ignore[arg-type]


def measure_normalisation(data: PictureSet) -> Normalisation:
    """Mean and standard deviation of each channel over all pixels, of values in [0, 1]."""
    # Counting values is exact, and needs no float copy of all pictures.
    counts = np.stack([np.bincount(_channel(data, c), minlength=256) for c in range(3)])
    shares = counts / counts.sum(1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0))
    # Four digits, so that the checkpoint says in full what it was trained with. Pictures of
    # one colour have no deviation; they are left as they are.
    return Normalisation(
        tuple(round(float(m), 4) for m in mean),
        tuple(max(round(float(s), 4), 1 / 255) for s in std),
    )


def batches(
    data: PictureSet, size: int, generator: torch.Generator, shift: int, flip: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order: (uint8 pixels, classes), pictures moved and mirrored at random.

    Args:
        size: pictures a batch; what is left at the end is left out of this epoch.
        shift: a picture moves by up to so many pixels in each direction, its edge repeated.
        flip: mirror every second picture.
    """
    order = torch.randperm(len(data), generator=generator)
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        yield vary(data.pixels[chosen], generator, shift, flip), data.classes[chosen]


def vary(pixels: Tensor, generator: torch.Generator, shift: int, flip: bool) -> Tensor:
    """uint8 (N, 3, height, width), each picture moved and perhaps mirrored, at random."""
    count, _, height, width = pixels.shape
    rows, columns = torch.arange(height), torch.arange(width)
    moves = torch.randint(-shift, shift + 1, (2, count, 1), generator=generator)
    rows = (rows + moves[0]).clamp_(0, height - 1)
    columns = (columns + moves[1]).clamp_(0, width - 1)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    pictures = torch.arange(count)
    # Indexed so, channels come last; a view puts them back in second place.
    moved = pixels[pictures[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def _channel(data: PictureSet, channel: int) -> np.ndarray:
    return data.pixels[:, channel].reshape(-1).numpy()


def _size(resolution: Any) -> tuple[int, int]:
    return (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
