"""Picture classification: one picture in, its most likely labels out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, ParityError
from edgekit.manifest import TensorSpec

from ..sessions.base import Session
from . import pictures
from .base import Result, Task

_Side = Annotated[int, Field(ge=1, le=16384)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ClassificationParams(BaseModel):
    """The parameters of the task in a manifest.

    Attributes:
        resolution: (height, width) that the network takes; one number for a square.
        resize: the shorter side before cropping; None: it just covers the crop. A pair is
            (height, width) without regard to the picture's shape.
        interpolation: of the resize. crop: cut the middle out; otherwise the picture is
            resized to ``resolution`` without regard to its shape.
        scale: what a pixel (0..255) is multiplied with first. channels: their order.
        mean, std: per channel, of the scaled values: (scaled - mean) / std.
        top_k: how many labels to answer with. labels: file in the bundle, one a line.
        input, output: names of the tensors; None: the graph's first.
    """

    model_config = ConfigDict(frozen=True)

    resolution: _Side | tuple[_Side, _Side]
    resize: _Side | tuple[_Side, _Side] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    crop: bool = True
    scale: _Positive = 1 / 255
    channels: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[_Finite, _Finite, _Finite] = (0.485, 0.456, 0.406)
    std: tuple[_Positive, _Positive, _Positive] = (0.229, 0.224, 0.225)
    top_k: Annotated[int, Field(ge=1)] = 5
    labels: str | None = None
    input: str | None = None
    output: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """``resolution`` as (height, width)."""
        if isinstance(self.resolution, int):
            return self.resolution, self.resolution
        return self.resolution


@dataclass(frozen=True)
class Prediction:
    """One label with its index and its probability."""

    label: str
    index: int
    score: float


@dataclass(frozen=True)
class ClassificationResult(Result):
    """The most likely labels, most likely first."""

    top: tuple[Prediction, ...]

    def to_json(self) -> dict[str, Any]:
        """``{"top": [{"label", "index", "score"}, …]}``."""
        return {"top": [asdict(prediction) for prediction in self.top]}

    def describe(self) -> str:
        """One line a label."""
        return "\n".join(f"{100 * p.score:6.2f} %  {p.label}" for p in self.top)


class Classification(Task):
    """A network from one picture (1, 3, H, W) to one row of scores (1, classes)."""

    kind: ClassVar[str] = "classification"
    suffixes: ClassVar[tuple[str, ...]] = pictures.SUFFIXES

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        self.params = _parse(bundle)
        self._input = _tensor(session.inputs, self.params.input, "input")
        self._output = _tensor(session.outputs, self.params.output, "output")
        self._check_input()
        self.labels = self._read_labels()
        # (x * scale - mean) / std as one multiplication and one addition.
        mean, std = (np.array(values) for values in (self.params.mean, self.params.std))
        self._scale = (self.params.scale / std).astype(np.float32)
        self._shift = (-mean / std).astype(np.float32)

    def prepare(self, source: pictures.Picture) -> dict[str, np.ndarray]:
        """The picture as (1, 3, H, W), resized, cropped and normalised.

        Args:
            source: a file, its content, a Pillow image, or a uint8 array (H, W, 3).

        Raises:
            InputError: it is no picture, or cannot be decoded.
        """
        image = pictures.decode(source)
        pixels = np.asarray(self._fit(image), dtype=np.float32)
        if self.params.channels == "BGR":
            pixels = pixels[..., ::-1]
        pixels = pixels * self._scale + self._shift
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis])
        return {self._input.name: batch.astype(self._input.dtype, copy=False)}

    def finish(self, outputs: Mapping[str, np.ndarray]) -> ClassificationResult:
        """Softmax over the scores, and the best ``top_k`` of them.

        Raises:
            ParityError: a score is not finite: the artifact is broken.
            BundleError: there is not one score per label.
        """
        scores = outputs[self._output.name].astype(np.float64).ravel()
        if not np.isfinite(scores).all():
            raise ParityError(
                "the scores are not finite",
                f"{self.session.runtime} overflows in this artifact",
                f"edgekit verify {self.bundle.path}",
            )
        if self.labels and len(self.labels) != scores.size:
            raise BundleError(f"{scores.size} scores do not fit {len(self.labels)} labels")
        chances = np.exp(scores - scores.max(initial=-np.inf))
        chances /= chances.sum()
        best = np.argsort(-chances, kind="stable")[: self.params.top_k]
        return ClassificationResult(
            tuple(Prediction(self._label(i), int(i), float(chances[i])) for i in best)
        )

    def _fit(self, image: Any) -> Any:
        params = self.params
        if not params.crop:
            return pictures.resize(image, params.size, params.interpolation)
        if isinstance(params.resize, tuple):
            image = pictures.resize(image, params.resize, params.interpolation)
        else:
            shorter = params.resize or max(params.size)
            image = pictures.resize_shorter(image, shorter, params.interpolation)
        return pictures.center_crop(image, params.size)

    def _label(self, index: int) -> str:
        return self.labels[index] if self.labels else f"class {index}"

    def _check_input(self) -> None:
        want = (1, 3, *self.params.size)
        shape = self._input.shape
        fits = len(shape) == len(want) and all(
            isinstance(have, str) or have == size for have, size in zip(shape, want, strict=True)
        )
        if not fits or not self._input.dtype.startswith("float"):
            raise BundleError(
                f"the task of {self.bundle.path} does not fit its graph",
                f"the task gives float {list(want)}, the graph takes "
                f"{self._input.dtype} {list(shape)}",
            )

    def _read_labels(self) -> tuple[str, ...]:
        if self.params.labels is None:
            return ()
        try:
            return tuple(self.bundle.read(self.params.labels).decode().splitlines())
        except UnicodeDecodeError as e:
            raise BundleError(f"the labels in {self.params.labels} are not UTF-8", str(e)) from e


def _parse(bundle: Bundle) -> ClassificationParams:
    try:
        return ClassificationParams.model_validate(bundle.manifest.task.params)
    except ValidationError as e:
        problem = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BundleError(
            f"the task of {bundle.path} is not valid", f"{where}: {problem['msg']}"
        ) from None


def _tensor(specs: tuple[TensorSpec, ...], name: str | None, what: str) -> TensorSpec:
    for spec in specs:
        if name is None or spec.name == name:
            return spec
    raise BundleError(f"the task's {what} {name!r} is not one of the graph's")
