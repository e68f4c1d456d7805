"""Object detection: one picture in, the boxes of what is in it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError

from ..anchor_decoder import AnchorDecoder
from ..boxes import clip_boxes, nms_per_class
from ..sessions.base import Session
from . import drawing, pictures
from .base import Result
from .dense_task import DenseParams, DenseTask
from .picture_input import Finite, Geometry, Positive, Side
from .picture_task import find_tensor

Share = Annotated[float, Field(ge=0, le=1)]


class DetectionOutputs(BaseModel):
    """Names of the graph's outputs: logits (1, A, classes), corrections of anchors (1, A, 4)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: str = "class_logits"
    boxes: str = "box_deltas"


class AnchorParams(BaseModel):
    """Which anchors the network corrects; see :mod:`edgekit.runtimes.anchors`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strides: Annotated[tuple[Side, ...], Field(min_length=1)] = (8, 16, 32, 64, 128)
    octave_base_scale: Positive = 4.0
    scales_per_octave: Annotated[int, Field(ge=1, le=64)] = 3
    ratios: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)


class DetectionParams(DenseParams):
    """The parameters of the task in a manifest.

    Attributes:
        outputs: names of the tensors. decoder: what they mean.
        anchors, delta_std: of the decoder.
        score_threshold: what scores no more is not answered. candidates: how many pairs of
            anchor and class a level contributes at most.
        iou_threshold: what overlaps a better box of its class by more is left out.
        max_detections: how many boxes to answer with. show_threshold: what scores less is
            neither drawn nor printed.
        The others are those of every dense task.
    """

    outputs: DetectionOutputs = DetectionOutputs()
    decoder: Literal["anchors"] = "anchors"
    anchors: AnchorParams = AnchorParams()
    delta_std: tuple[Finite, Finite, Finite, Finite] = (1.0, 1.0, 1.0, 1.0)
    score_threshold: Share = 0.05
    candidates: Annotated[int, Field(ge=1)] = 1000
    iou_threshold: Share = 0.5
    max_detections: Annotated[int, Field(ge=1)] = 100
    show_threshold: Share = 0.3


@dataclass(frozen=True)
class Detection:
    """One object: label, index of its class, score, and x1, y1, x2, y2 in the picture."""

    label: str
    index: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class DetectionResult(Result):
    """What was found, best first.

    Attributes:
        size: (height, width) of the picture. show_threshold: what scores less is neither
            drawn nor described.
    """

    detections: tuple[Detection, ...]
    size: tuple[int, int]
    show_threshold: float = 0.0

    @property
    def shown(self) -> tuple[Detection, ...]:
        """Those that score at least ``show_threshold``."""
        return tuple(one for one in self.detections if one.score >= self.show_threshold)

    def to_json(self) -> dict[str, Any]:
        """``{"size": [height, width], "detections": [{"label", "index", "score", "box"}, …]}``."""
        return {"size": list(self.size), "detections": [asdict(one) for one in self.detections]}

    def describe(self) -> str:
        """How many objects, then one line each."""
        shown = self.shown
        count = f"{len(shown)} object" + ("" if len(shown) == 1 else "s")
        lines = [f"{count} with {100 * self.show_threshold:g} % or more"]
        for one in shown:
            x1, y1, x2, y2 = (round(value) for value in one.box)
            lines.append(f"{100 * one.score:6.2f} %  {one.label}  {x1},{y1} to {x2},{y2}")
        return "\n".join(lines)

    def draw(self, picture: pictures.Picture) -> Image.Image:
        """A copy of the picture with the boxes and their labels.

        Raises:
            InputError: it is no picture, or one of another size.
        """
        image = pictures.decode(picture)
        if (image.height, image.width) != self.size:
            raise InputError("the boxes are not of this picture", "it has another size")
        # The best last, and so on top.
        boxes = [
            (one.box, f"{one.label} {100 * one.score:.0f} %", one.index)
            for one in reversed(self.shown)
        ]
        return drawing.draw_boxes(image, boxes)


class ObjectDetection(DenseTask[DetectionParams]):
    """A network from one picture to class logits and corrections of anchors."""

    kind: ClassVar[str] = "detection"
    params_class = DetectionParams

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        params = self.params
        names = params.outputs
        self._scores = find_tensor(session.outputs, names.scores, "output")
        self._boxes = find_tensor(session.outputs, names.boxes, "output")
        self._decoder = AnchorDecoder(
            **params.anchors.model_dump(),
            delta_std=params.delta_std,
            score_threshold=params.score_threshold,
            candidates=params.candidates,
        )
        if all(
            isinstance(side, int) for spec in (self._scores, self._boxes) for side in spec.shape
        ):
            self._check(self._scores.shape, self._boxes.shape, params.size)

    def finish(
        self, outputs: Mapping[str, np.ndarray], geometry: Geometry | None = None
    ) -> DetectionResult:
        """Decode the best anchors of each level, and suppress doubles within each class.

        Raises:
            ParityError: an output is not finite: the artifact is broken.
            BundleError: the outputs do not fit the anchors or the labels.
        """
        geometry = geometry or self.whole()
        logits, deltas = outputs[self._scores.name], outputs[self._boxes.name]
        self._check(logits.shape, deltas.shape, geometry.input)
        self.check_finite(logits, "scores")
        self.check_finite(deltas, "boxes")
        self.labels.check(logits.shape[2], "classes")
        logits = logits.astype(np.float32, copy=False)  # NumPy compares halves slowly
        found = self._decoder.decode(logits[0], deltas[0], geometry.input, geometry.valid)
        params = self.params
        kept = nms_per_class(*found, params.iou_threshold, params.max_detections)
        boxes = clip_boxes(geometry.to_source(found.boxes[kept]), geometry.source).tolist()
        rows = zip(found.classes[kept].tolist(), found.scores[kept].tolist(), boxes, strict=True)
        return DetectionResult(
            tuple(
                Detection(self.labels[index], index, score, tuple(box))
                for index, score, box in rows
            ),
            geometry.source,
            params.show_threshold,
        )

    def _check(
        self, scores: tuple[Any, ...], boxes: tuple[Any, ...], size: tuple[int, int]
    ) -> None:
        count = sum(self._decoder.counts(size))
        if len(scores) != 3 or scores[:2] != (1, count) or boxes != (1, count, 4):
            raise BundleError(
                f"the task of {self.bundle.path} does not fit its graph",
                f"a picture of {size[0]}x{size[1]} has {count} anchors, so scores are (1, {count}, "
                f"classes) and boxes (1, {count}, 4); they are {list(scores)} and {list(boxes)}",
            )
