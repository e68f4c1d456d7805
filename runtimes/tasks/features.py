"""Feature maps: one picture in, what a backbone makes of it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict

from edgekit.bundle import Bundle

from ..sessions.base import Session
from .picture_input import PictureParams
from .picture_task import PictureTask, find_tensor
from .tensors import TensorsResult


class FeaturesParams(PictureParams):
    """The parameters of the task in a manifest.

    Attributes:
        outputs: names of the feature maps to answer with, in this order; None: all of the
            graph's outputs.
        The others are those of every task that takes a picture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: tuple[str, ...] | None = None


class FeaturesResult(TensorsResult):
    """The feature maps by name; they can be saved as ``.npz``."""

    def to_json(self) -> dict[str, Any]:
        """As for plain tensors, and the standard deviation of each map."""
        document = super().to_json()
        for name, facts in document["outputs"].items():
            if "mean" in facts:
                facts["std"] = float(self.outputs[name].std(dtype=np.float64))
        return document

    def describe(self) -> str:
        """One line a feature map: shape, mean and standard deviation."""
        lines = []
        for name, facts in self.to_json()["outputs"].items():
            line = f"{name}  {facts['dtype']} {facts['shape']}"
            if "std" in facts:
                line += f"  mean {facts['mean']:.6g}, std {facts['std']:.6g}"
            lines.append(line)
        return "\n".join(lines)


class Features(PictureTask[FeaturesParams]):
    """A network from one picture (1, 3, H, W) to named feature maps."""

    kind: ClassVar[str] = "features"
    params_class = FeaturesParams

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        wanted = self.params.outputs
        if wanted is None:
            wanted = tuple(spec.name for spec in session.outputs)
        self._names = [find_tensor(session.outputs, name, "output").name for name in wanted]

    def finish(self, outputs: Mapping[str, np.ndarray]) -> FeaturesResult:
        """The feature maps that the task names.

        Raises:
            ParityError: a value is not finite: the artifact is broken.
        """
        found = {name: outputs[name] for name in self._names}
        for name, values in found.items():
            self.check_finite(values, f"values of {name}")
        return FeaturesResult(found)
