"""Semantic segmentation: one picture in, the class of each of its pixels out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError

from ..label_map import label_map
from ..sessions.base import Session
from . import drawing, pictures
from .base import Result
from .dense_task import DenseParams, DenseTask
from .picture_input import Geometry
from .picture_task import find_tensor

MOST_CLASSES = 1 << 16  # that a mask can hold
NAMED = 8  # classes that are described and stand in the legend


class SegmentationParams(DenseParams):
    """The parameters of the task in a manifest.

    Attributes:
        output: name of the logits (1, classes, h, w), at any stride; None: the graph's first.
        The others are those of every dense task.
    """

    output: str | None = None


@dataclass(frozen=True)
class ClassShare:
    """One class with the share of the picture's pixels that it has, 0 to 1."""

    label: str
    index: int
    share: float


@dataclass(frozen=True, eq=False)
class SegmentationResult(Result):
    """The class of every pixel.

    Attributes:
        mask: (height, width) class indices, uint8 or uint16.
        shares: of the classes that occur, largest first.
    """

    mask: np.ndarray
    shares: tuple[ClassShare, ...]

    def to_json(self) -> dict[str, Any]:
        """``{"size": [height, width], "classes": [{"label", "index", "share"}, …]}``."""
        return {"size": list(self.mask.shape), "classes": [asdict(one) for one in self.shares]}

    def describe(self) -> str:
        """One line for each of the largest classes."""
        lines = [f"{100 * one.share:6.2f} %  {one.label}" for one in self.shares[:NAMED]]
        if len(self.shares) > NAMED:
            rest = sum(one.share for one in self.shares[NAMED:])
            lines.append(f"{100 * rest:6.2f} %  {len(self.shares) - NAMED} others")
        return "\n".join(lines)

    def draw(self, picture: pictures.Picture) -> Image.Image:
        """A copy of the picture, half covered by the colours of its classes.

        Raises:
            InputError: it is no picture, or one of another size.
        """
        image = pictures.decode(picture)
        if (image.height, image.width) != self.mask.shape:
            raise InputError("the mask is not of this picture", "it has another size")
        named = self.shares[:NAMED]
        legend = [(f"{one.label} {100 * one.share:.0f} %", one.index) for one in named]
        return drawing.draw_mask(image, self.mask, legend)

    def save_mask(self, path: str | Path) -> None:
        """Write the class indices as a grey PNG, of 8 or 16 bits."""
        Image.fromarray(self.mask).save(path, format="PNG")


class Segmentation(DenseTask[SegmentationParams]):
    """A network from one picture to class logits on a grid."""

    kind: ClassVar[str] = "segmentation"
    params_class = SegmentationParams

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        self._output = find_tensor(session.outputs, self.params.output, "output")
        if len(self._output.shape) != 4:
            raise self._misfit(self._output.shape)

    def finish(
        self, outputs: Mapping[str, np.ndarray], geometry: Geometry | None = None
    ) -> SegmentationResult:
        """The best class of every pixel of the picture, interpolated between the logits.

        Raises:
            ParityError: a logit is not finite: the artifact is broken.
            BundleError: the logits do not fit the labels.
        """
        geometry = geometry or self.whole()
        logits = outputs[self._output.name]
        if logits.ndim != 4 or len(logits) != 1 or not 1 <= logits.shape[1] <= MOST_CLASSES:
            raise self._misfit(logits.shape)
        self.check_finite(logits, "logits")
        self.labels.check(logits.shape[1], "classes")
        height, width = (
            cells * valid / whole
            for cells, valid, whole in zip(
                logits.shape[2:], geometry.valid, geometry.input, strict=True
            )
        )
        mask = label_map(logits[0], geometry.source, (height, width))
        return SegmentationResult(mask, self._shares(mask))

    def _shares(self, mask: np.ndarray) -> tuple[ClassShare, ...]:
        counts = np.bincount(mask.ravel())
        order = np.argsort(-counts, kind="stable")
        return tuple(
            ClassShare(self.labels[i], i, int(counts[i]) / mask.size)
            for i in order.tolist()
            if counts[i]
        )

    def _misfit(self, shape: tuple[Any, ...]) -> BundleError:
        return BundleError(
            f"the task of {self.bundle.path} does not fit its graph",
            f"logits are (1, classes, height, width), the output is {list(shape)}",
        )
