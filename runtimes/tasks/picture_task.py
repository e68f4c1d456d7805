"""What all tasks that take a picture share."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

import numpy as np
from PIL import Image
from pydantic import ValidationError

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, ParityError
from edgekit.manifest import TensorSpec

from ..sessions.base import Session
from . import pictures
from .base import Task
from .picture_input import PictureInput, PictureParams

P = TypeVar("P", bound=PictureParams)


class PictureTask(Task, Generic[P]):
    """A task from one picture to what the graph's outputs mean.

    Attributes:
        params_class: the schema of the task's parameters in a manifest.
        params: those of this bundle.
    """

    takes_pictures: ClassVar[bool] = True
    suffixes: ClassVar[tuple[str, ...]] = pictures.SUFFIXES
    params_class: type[P]

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        self.params: P = self._parse()
        spec = find_tensor(session.inputs, self.params.input, "input")
        self.picture_input = PictureInput(self.params, spec, session.dynamic, str(bundle.path))

    def decode(self, source: pictures.Picture) -> Image.Image:
        """The picture, decoded."""
        return pictures.decode(source)

    def prepare(self, source: pictures.Picture) -> dict[str, np.ndarray]:
        """The picture as (1, 3, H, W), resized and normalised.

        Args:
            source: a file, its content, a Pillow image, or a uint8 array (H, W, 3).

        Raises:
            InputError: it is no picture, or cannot be decoded.
        """
        batch, _ = self.picture_input.prepare(source)
        return {self.picture_input.spec.name: batch}

    def check_finite(self, values: np.ndarray, what: str) -> None:
        """Raise ParityError where an output (``what``, in words) has NaN or infinities."""
        if not np.isfinite(values).all():
            raise ParityError(
                f"the {what} are not finite",
                f"{self.session.runtime} overflows in this artifact",
                f"edgekit verify {self.bundle.path}",
            )

    def _parse(self) -> P:
        try:
            return self.params_class.model_validate(self.bundle.manifest.task.params)
        except ValidationError as e:
            problem = e.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise BundleError(
                f"the task of {self.bundle.path} is not valid",
                f"{where}: {problem['msg']}" if where else problem["msg"],
            ) from None


def find_tensor(specs: tuple[TensorSpec, ...], name: str | None, what: str) -> TensorSpec:
    """The graph's tensor of that name, or its first.

    Raises:
        BundleError: it has none of that name; ``what`` is "input" or "output".
    """
    for spec in specs:
        if name is None or spec.name == name:
            return spec
    raise BundleError(f"the task's {what} {name!r} is not one of the graph's")
