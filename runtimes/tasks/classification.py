"""Picture classification: one picture in, its most likely labels out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from edgekit.bundle import Bundle

from ..sessions.base import Session
from .base import Result
from .labels import Labels
from .picture_input import Fit, PictureParams
from .picture_task import PictureTask, find_tensor


class ClassificationParams(PictureParams):
    """The parameters of the task in a manifest.

    Attributes:
        crop: False is another way to say that ``fit`` is ``stretch``.
        top_k: how many labels to answer with. labels: file in the bundle, one a line.
        output: name of the scores; None: the graph's first output.
        The others are those of every task that takes a picture.
    """

    fit: Fit = "crop"
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    crop: bool = True
    top_k: Annotated[int, Field(ge=1)] = 5
    labels: str | None = None
    output: str | None = None

    @property
    def placement(self) -> Fit:
        """``fit``, as ``crop`` changes it."""
        return "stretch" if self.fit == "crop" and not self.crop else self.fit


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


class Classification(PictureTask[ClassificationParams]):
    """A network from one picture (1, 3, H, W) to one row of scores (1, classes)."""

    kind: ClassVar[str] = "classification"
    params_class = ClassificationParams

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        self._output = find_tensor(session.outputs, self.params.output, "output")
        self.labels = Labels.read(bundle, self.params.labels)

    def finish(self, outputs: Mapping[str, np.ndarray]) -> ClassificationResult:
        """Softmax over the scores, and the best ``top_k`` of them.

        Raises:
            ParityError: a score is not finite: the artifact is broken.
            BundleError: there is not one score per label.
        """
        scores = outputs[self._output.name].astype(np.float64).ravel()
        self.check_finite(scores, "scores")
        self.labels.check(scores.size, "scores")
        chances = np.exp(scores - scores.max(initial=-np.inf))
        chances /= chances.sum()
        best = np.argsort(-chances, kind="stable")[: self.params.top_k]
        return ClassificationResult(
            tuple(Prediction(self.labels[i], int(i), float(chances[i])) for i in best)
        )
