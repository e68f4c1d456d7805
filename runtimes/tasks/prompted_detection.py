"""Detection of what is asked for: a picture and the names of classes in, their boxes out.

The bundle has several graphs. ``vision`` looks at the picture, once whatever the number of
classes; ``text`` embeds the names, once for each; ``detection`` answers for several classes at a
time. The session that a task is made around is that of ``vision``; the others are opened beside
it on the same runtime when they are needed, and closed with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from pydantic import ConfigDict, Field

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, UsageError

from ..boxes import clip_boxes, nms, nms_per_class
from ..detector_cache import TextCache, fingerprint
from ..detector_head import Candidates, DetectionHead, chunk_size
from ..detector_prompts import Prompts, Tokenizer, clean
from ..sessions.base import Session
from . import pictures
from .base import Prepared
from .dense_task import DenseParams
from .detection import Detection, Share
from .labels import Labels
from .outlines import draw_outlines
from .picture_input import Geometry
from .picture_task import PictureTask, find_tensor
from .prompted_result import PromptedResult

TEXT: Final = "text"
DETECTION: Final = "detection"
_FEATURES: Final = "features"
NO_CACHE: Final = ""  # in place of a folder: embeddings are kept in memory alone


class PromptedParams(DenseParams):
    """The parameters of the task in a manifest.

    Attributes:
        graph: the one that takes the picture. masks: the one that draws outlines, if any.
        tokenizer: file in the bundle. tokens: length of a prompt.
        labels: the classes to look for where nobody names others.
        score_threshold: what scores less is not answered.
        iou_threshold: what overlaps a better box of its class by more is left out.
        class_agnostic: also of another class.
        max_detections: how many boxes to answer with.
        class_bytes: memory that one class more takes, for choosing how many at once.
        The others are those of every dense task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: str = "vision"
    masks: str | None = None
    tokenizer: str = "assets/tokenizer.json"
    tokens: Annotated[int, Field(ge=2, le=4096)] = 32
    score_threshold: Share = 0.3
    iou_threshold: Share = 0.7
    class_agnostic: bool = False
    max_detections: Annotated[int, Field(ge=1)] = 100
    class_bytes: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Settings:
    """How to look; None: as the bundle says.

    Attributes:
        threshold: what scores less is not answered. iou_threshold, class_agnostic: of the
            suppression of doubles.
        memory: bytes that the classes looked for at once may take.
        masks: draw outlines. cache: folder of embedded prompts; "": none; None: the user's.
    """

    threshold: float | None = None
    iou_threshold: float | None = None
    class_agnostic: bool | None = None
    memory: int | None = None
    masks: bool = False
    cache: str | Path | None = None


class PromptedDetection(PictureTask[PromptedParams]):
    """A picture and names of classes to boxes.

    Attributes:
        settings: how it looks. runs: how often each graph ran, by name; the session that the
            task is around is run by the caller, and counted where this task runs it.
    """

    kind: ClassVar[str] = "prompted-detection"
    params_class = PromptedParams

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        find_tensor(session.outputs, _FEATURES, "output")
        if self.params.masks is not None:
            for name in ("features_2x", "features_4x"):
                find_tensor(session.outputs, name, "output")
        self.settings = Settings()
        self._classes: tuple[str, ...] | None = None
        self._mask_runs = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """What is looked for, in order: a detection's ``index`` counts these.

        Raises:
            UsageError: nobody named any, and the bundle has none of its own.
        """
        if self._classes is None:
            self.choose(Labels.read(self.bundle, self.params.labels).names)
        return self._classes or ()

    def choose(self, names: Sequence[str]) -> None:
        """Look for these from now on; what is seen of a picture need not be seen anew.

        Raises:
            UsageError: there is none, one is empty, or one is too long.
            MissingBackendError: one is new, and the tokenizer's library is not here.
        """
        chosen = clean(names)
        self.prompts.embed(chosen)
        self._classes = chosen

    def configure(self, settings: Settings) -> None:
        """Look otherwise from now on.

        Raises:
            UsageError: a value is out of range, or there is no graph for outlines.
        """
        for name in ("threshold", "iou_threshold"):
            value = getattr(settings, name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} {value} is no share", "", "give 0 to 1")
        if settings.masks and self.params.masks is None:
            raise UsageError(
                f"{self.bundle.path} draws no outlines",
                "it was exported without them",
                f"edgekit export {self.bundle.manifest.model.source}-masks",
            )
        self.settings = settings
        for lazy in ("prompts", "head"):
            self.__dict__.pop(lazy, None)

    @cached_property
    def prompts(self) -> Prompts:
        """The embeddings."""
        from .. import registry

        text = self.bundle.graph(TEXT)
        width = text.outputs[0].shape[-1]
        cache = None
        if self.settings.cache != NO_CACHE and isinstance(width, int):
            target = registry.get(self.session.runtime).target
            print_ = fingerprint(self.bundle, text, target, self.params.tokenizer)
            folder = self.settings.cache
            cache = TextCache(print_, Path(folder) if folder else None, (self.params.tokens, width))
        return Prompts(partial(self._open, TEXT), self._tokenizer, cache)

    @cached_property
    def head(self) -> DetectionHead:
        """The detection graph."""
        session = self._sibling(DETECTION)
        return DetectionHead(
            session, chunk_size(session, self.params.class_bytes, self.settings.memory)
        )

    @property
    def runs(self) -> Mapping[str, int]:
        """How often the graphs beside ``vision`` ran, by name."""
        count = {TEXT: self.prompts.runs, DETECTION: self.head.runs}
        return Counter(count | ({self.params.masks: self._mask_runs} if self.params.masks else {}))

    def begin(self, source: pictures.Picture) -> Prepared:
        """The inputs, and a finish that finds the way back to this picture.

        Raises:
            InputError: it is no picture, or cannot be decoded.
        """
        batch, geometry = self.picture_input.prepare(source)
        inputs = {self.picture_input.spec.name: batch}
        return Prepared(inputs, partial(self.finish, geometry=geometry))

    def finish(
        self, outputs: Mapping[str, np.ndarray], geometry: Geometry | None = None
    ) -> PromptedResult:
        """Boxes of all classes in what ``vision`` saw.

        Raises:
            ParityError: an output is not finite: an artifact is broken.
        """
        geometry = geometry or Geometry.whole(self.params.size)
        settings, params, names = self.settings, self.params, self.classes
        self.check_finite(outputs[_FEATURES], "features")
        threshold = _or(settings.threshold, params.score_threshold)
        text = self.prompts.embed(names)
        found = self.head.find(outputs[_FEATURES], text, threshold, settings.masks)
        boxes = _in_picture(found.boxes, geometry)
        kept = self._suppress(found, boxes)
        columns = (found.classes[kept], found.scores[kept], boxes[kept])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        detections = tuple(
            Detection(names[index], index, score, tuple(box)) for index, score, box in rows
        )
        weights = self.bundle.manifest.model.weights
        result = PromptedResult(detections, geometry.source, threshold, weights)
        if not settings.masks:
            return result
        return replace(result, masks=self._outlines(outputs, found, kept, text, geometry))

    def _suppress(self, found: Candidates, boxes: np.ndarray) -> np.ndarray:
        """Which boxes to answer with, best first; none that lies outside of the picture."""
        overlap = _or(self.settings.iou_threshold, self.params.iou_threshold)
        most = self.params.max_detections
        inside = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1))
        if not len(inside):
            return inside
        boxes, scores = boxes[inside], found.scores[inside]
        if _or(self.settings.class_agnostic, self.params.class_agnostic):
            return inside[nms(boxes, scores, overlap, most)]
        return inside[nms_per_class(boxes, scores, found.classes[inside], overlap, most)]

    def _outlines(
        self,
        outputs: Mapping[str, np.ndarray],
        found: Candidates,
        kept: np.ndarray,
        text: tuple[np.ndarray, np.ndarray],
        geometry: Geometry,
    ) -> tuple[np.ndarray, ...]:
        session = self._sibling(self.params.masks or "")
        masks, runs = draw_outlines(session, outputs, found, kept, text, geometry)
        self._mask_runs += runs
        return masks

    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self.bundle.read(self.params.tokenizer), self.params.tokens)

    def _sibling(self, graph: str) -> Session:
        """Another graph's session, open as long as this task's own."""
        siblings = self.__dict__.setdefault("_siblings", {})
        if graph not in siblings:
            siblings[graph] = self._open(graph)
            self.session.own(siblings[graph])
        return siblings[graph]

    def _open(self, graph: str) -> Session:
        from .. import load

        known = [one.name for one in self.bundle.manifest.graphs]
        if graph not in known:
            raise BundleError(
                f"{self.bundle.path} has no graph {graph!r}", f"it has {', '.join(known)}"
            )
        return load(self.bundle, self.session.runtime, threads=self.session.threads, graph=graph)


def _in_picture(boxes: np.ndarray, geometry: Geometry) -> np.ndarray:
    """(K, 4) boxes in shares of the input, in the picture's pixels and cut at its borders."""
    height, width = geometry.input
    pixels = boxes * np.array([width, height, width, height], np.float32)
    return clip_boxes(geometry.to_source(pixels), geometry.source)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
