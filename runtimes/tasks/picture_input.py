"""From a decoded picture to a network's input: resized, placed, normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekit.errors import BundleError
from edgekit.manifest import AxisRange, TensorSpec

from . import pictures

MAX_SIDE = 16384

Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fit = Literal["crop", "stretch", "letterbox"]
Size = tuple[int, int]  # height, width


class PictureParams(BaseModel):
    """How a picture becomes the input of a network (1, 3, height, width).

    Attributes:
        resolution: (height, width) of what the network sees; one number for a square.
        fit: how a picture of another shape gets there. ``letterbox`` keeps its shape, makes
            it fit into ``resolution`` and pads it on the right and below. ``stretch`` does
            not keep it. ``crop`` keeps it, covers ``resolution`` and cuts the middle out.
        resize: for ``crop``, the shorter side before cropping; None: it just covers the
            crop. A pair is (height, width) without regard to the picture's shape.
        pad_multiple: for ``letterbox``, where the graph's height or width is dynamic: padded
            only up to a multiple of this. A static axis is padded to ``resolution``.
        interpolation: of the resize.
        scale: what a pixel (0..255) is multiplied with first. channels: their order.
        mean, std: per channel, of the scaled values: (scaled - mean) / std. Padding is 0
            after that.
        input: name of the tensor; None: the graph's first.
    """

    model_config = ConfigDict(frozen=True)

    resolution: Side | tuple[Side, Side]
    fit: Fit = "letterbox"
    resize: Side | tuple[Side, Side] | None = None
    pad_multiple: Side = 32
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    scale: Positive = 1 / 255
    channels: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[Finite, Finite, Finite] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    input: str | None = None

    @model_validator(mode="after")
    def _resize_belongs_to_crop(self) -> PictureParams:
        if self.resize is not None and self.fit != "crop":
            raise ValueError('resize goes with fit "crop" alone')
        return self

    @property
    def size(self) -> Size:
        """``resolution`` as (height, width)."""
        if isinstance(self.resolution, int):
            return self.resolution, self.resolution
        return self.resolution

    @property
    def placement(self) -> Fit:
        """``fit``, for a task that has another way to say it."""
        return self.fit


@dataclass(frozen=True)
class Geometry:
    """Where a picture lies in a network's input: at the top left, scaled, then padding.

    Attributes:
        source: (height, width) of the picture. valid: of what it was resized to.
        input: of the tensor, padding included.
    """

    source: Size
    valid: Size
    input: Size

    @classmethod
    def whole(cls, size: Size) -> Geometry:
        """A picture that is the network's input, as it is."""
        return cls(size, size, size)

    def to_source(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) boxes x1, y1, x2, y2 in pixels of the input as such in pixels of the picture."""
        y, x = (have / now for have, now in zip(self.source, self.valid, strict=True))
        return boxes * np.array([x, y, x, y], boxes.dtype)


class PictureInput:
    """The way from a picture to one input of a graph.

    Args:
        params: how. spec: the graph's input. dynamic: the ranges of its dynamic axes.
        owner: whose task it is, for errors.

    Raises:
        BundleError: the two do not fit.
    """

    def __init__(
        self,
        params: PictureParams,
        spec: TensorSpec,
        dynamic: Mapping[str, AxisRange],
        owner: str = "the bundle",
    ) -> None:
        self.params, self.spec, self._owner = params, spec, owner
        self._check()
        self._axes = spec.shape[2:]
        self._ranges = [self._range(axis, dynamic) for axis in self._axes]
        # (x * scale - mean) / std as one multiplication and one addition.
        mean, std = (np.array(values) for values in (params.mean, params.std))
        self._scale = (params.scale / std).astype(np.float32)
        self._shift = (-mean / std).astype(np.float32)

    def prepare(self, source: pictures.Picture) -> tuple[np.ndarray, Geometry]:
        """The picture as (1, 3, height, width) in the input's dtype, and where it lies there.

        After a crop the geometry is that of the part that was cut out.

        Args:
            source: a file, its content, a Pillow image, or a uint8 array (H, W, 3).

        Raises:
            InputError: it is no picture, or cannot be decoded.
        """
        image = pictures.decode(source)
        if self.params.placement == "crop":
            image = self._crop(image)
            geometry = Geometry.whole((image.height, image.width))
        else:
            geometry = self.place((image.height, image.width))
            image = pictures.resize(image, geometry.valid, self.params.interpolation)
        pixels = np.asarray(image, dtype=np.float32)
        if self.params.channels == "BGR":
            pixels = pixels[..., ::-1]
        pixels = pixels * self._scale + self._shift
        planes = pixels.transpose(2, 0, 1)[np.newaxis]
        if geometry.valid == geometry.input:
            batch = np.ascontiguousarray(planes)
        else:
            batch = np.zeros((1, 3, *geometry.input), np.float32)
            batch[:, :, : geometry.valid[0], : geometry.valid[1]] = planes
        return batch.astype(self.spec.dtype, copy=False), geometry

    def place(self, source: Size) -> Geometry:
        """Where a picture of ``source`` (height, width) goes, if it is not cropped."""
        size = self.params.size
        if self.params.placement == "stretch":
            return Geometry(source, size, size)
        room = [min(have, high) for have, (_, high) in zip(size, self._ranges, strict=True)]
        scale = min(have / want for have, want in zip(room, source, strict=True))
        # One pixel at least: a very thin picture would vanish otherwise.
        valid = [
            min(max(int(side * scale + 0.5), 1), most)
            for side, most in zip(source, room, strict=True)
        ]
        padded = [
            max(_up(side, self._step(axis)), low)
            for side, axis, (low, _) in zip(valid, self._axes, self._ranges, strict=True)
        ]
        if self._axes[0] == self._axes[1]:  # of one name: the graph takes squares alone
            padded = [max(padded)] * 2
        return Geometry(source, (valid[0], valid[1]), (padded[0], padded[1]))

    def _crop(self, image: Any) -> Any:
        params = self.params
        if isinstance(params.resize, tuple):
            image = pictures.resize(image, params.resize, params.interpolation)
        else:
            shorter = params.resize or max(params.size)
            image = pictures.resize_shorter(image, shorter, params.interpolation)
        return pictures.center_crop(image, params.size)

    def _step(self, axis: int | str) -> int:
        return self.params.pad_multiple if isinstance(axis, str) else 1

    def _range(self, axis: int | str, dynamic: Mapping[str, AxisRange]) -> Size:
        """The least and the largest padded size of an axis: of a static one, its own."""
        if isinstance(axis, int):
            return axis, axis
        limits = dynamic.get(axis, AxisRange(min=1, max=MAX_SIDE))
        step = self._step(axis)
        least, most = _up(limits.min, step), limits.max // step * step
        if least > most and self.params.placement == "letterbox":
            raise BundleError(
                f"the task of {self._owner} does not fit its graph",
                f"it pads to multiples of {step}, and the graph takes no such {axis}: "
                f"{limits.min}..{limits.max}",
            )
        return least, most

    def _check(self) -> None:
        want = (1, 3, *self.params.size)
        shape = self.spec.shape
        fits = len(shape) == len(want) and all(
            isinstance(have, str) or have == size for have, size in zip(shape, want, strict=True)
        )
        if not fits or not self.spec.dtype.startswith("float"):
            raise BundleError(
                f"the task of {self._owner} does not fit its graph",
                f"the task gives float {list(want)}, the graph takes "
                f"{self.spec.dtype} {list(shape)}",
            )


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
