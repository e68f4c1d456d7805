"""What tasks share whose answer is about places in the picture: boxes, masks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Literal, TypeVar

import numpy as np
from pydantic import ConfigDict

from edgekit.bundle import Bundle

from ..sessions.base import Session
from . import pictures
from .base import Prepared, Result
from .labels import Labels
from .picture_input import Geometry, PictureParams
from .picture_task import PictureTask


class DenseParams(PictureParams):
    """The parameters that all dense tasks have in a manifest.

    Attributes:
        fit: as for every task that takes a picture, but nothing may be cut off.
        labels: file in the bundle, one a line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: Literal["letterbox", "stretch"] = "letterbox"
    labels: str | None = None


D = TypeVar("D", bound=DenseParams)


class DenseTask(PictureTask[D]):
    """A task whose answer is in pixels of the picture, whatever size the network saw."""

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        self.labels = Labels.read(bundle, self.params.labels)

    def begin(self, source: pictures.Picture) -> Prepared:
        """The inputs, and a finish that finds the way back to this picture.

        Raises:
            InputError: it is no picture, or cannot be decoded.
        """
        batch, geometry = self.picture_input.prepare(source)
        inputs = {self.picture_input.spec.name: batch}
        return Prepared(inputs, partial(self.finish, geometry=geometry))

    @abstractmethod
    def finish(self, outputs: Mapping[str, np.ndarray], geometry: Geometry | None = None) -> Result:
        """The answer in the session's outputs.

        Args:
            geometry: where the picture lies in the input; None: it is the input, in the
                task's ``resolution``. :meth:`begin` knows it.
        """

    def whole(self) -> Geometry:
        """The geometry of a picture that is the network's input."""
        return Geometry.whole(self.params.size)
