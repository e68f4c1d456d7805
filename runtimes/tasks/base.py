"""What every task offers: real input to tensors, outputs to an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekit.bundle import Bundle

from ..sessions.base import Session


class Result(ABC):
    """An answer, as an immutable value."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain values that ``json.dumps`` takes."""

    @abstractmethod
    def describe(self) -> str:
        """A few lines of text for people."""


class Task(ABC):
    """One kind of task around a session.

    ``task(path)`` is ``finish(session.run(prepare(path)))``; the parts are public so that
    they can be timed and tested alone.

    Attributes:
        kind: the name in the manifest. suffixes: of the files it takes, lower case.

    Raises:
        BundleError: (on construction) the parameters in the manifest make no sense, or do
            not fit the session.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, bundle: Bundle, session: Session) -> None:
        self.bundle, self.session = bundle, session

    @abstractmethod
    def prepare(self, source: Any) -> dict[str, np.ndarray]:
        """The session's inputs for one file (or what the task takes instead of a file).

        Raises:
            InputError: the file cannot be read as what this task takes.
        """

    @abstractmethod
    def finish(self, outputs: Mapping[str, np.ndarray]) -> Result:
        """The answer in the session's outputs."""

    def __call__(self, source: str | Path | Any) -> Result:
        """The whole way for one input."""
        return self.finish(self.session.run(self.prepare(source)))
