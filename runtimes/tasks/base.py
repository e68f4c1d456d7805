"""What every task offers: real input to tensors, outputs to an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekit.bundle import Bundle

from ..sessions.base import Session

Shape = Sequence[int | str]
"""Of a tensor, with the names of its dynamic axes."""


class Result(ABC):
    """An answer, as an immutable value."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain values that ``json.dumps`` takes."""

    @abstractmethod
    def describe(self) -> str:
        """A few lines of text for people."""


@dataclass(frozen=True)
class Prepared:
    """One input on its way.

    Attributes:
        inputs: what the session takes. finish: makes the answer of the session's outputs; it
            knows what was lost on the way in, such as the size of a picture.
    """

    inputs: dict[str, np.ndarray]
    finish: Callable[[Mapping[str, np.ndarray]], Result]


class Task(ABC):
    """One kind of task around a session.

    ``task(path)`` begins with an input, runs the session on it and finishes; the parts are
    public so that they can be timed and tested alone.

    Attributes:
        kind: the name in the manifest. suffixes: of the files it takes, lower case.
        takes_pictures: whether a file is a picture, so that any photograph is a real input.

    Raises:
        BundleError: (on construction) the parameters in the manifest make no sense, or do
            not fit the session.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    takes_pictures: ClassVar[bool] = False

    def __init__(self, bundle: Bundle, session: Session) -> None:
        self.bundle, self.session = bundle, session

    def decode(self, source: Any) -> Any:
        """A file's content, in memory as a camera or a microphone would hand it over.

        What this returns is taken in place of a file.

        Raises:
            InputError: the file cannot be read as what this task takes.
        """
        return source

    @classmethod
    def examples(
        cls, params: Mapping[str, Any], shapes: Mapping[str, Shape], end: str | None = None
    ) -> tuple[dict[str, np.ndarray], str] | None:
        """Inputs made up for a graph, where random numbers are no example of them, or too tame.

        Args:
            params: the task's, as in a manifest. shapes: of the graph's inputs, by name.
            end: ``min`` or ``max``: as small or as large as it makes sense to try.

        Returns:
            arrays by name, and in words what they are. None: there are none; where there are
            none without an ``end``, random numbers are an example, too.
        """
        return None

    @abstractmethod
    def prepare(self, source: Any) -> dict[str, np.ndarray]:
        """The session's inputs for one file (or what the task takes instead of a file).

        Raises:
            InputError: the file cannot be read as what this task takes.
        """

    @abstractmethod
    def finish(self, outputs: Mapping[str, np.ndarray]) -> Result:
        """The answer in the session's outputs."""

    def begin(self, source: str | Path | Any) -> Prepared:
        """:meth:`prepare`, and the :meth:`finish` that belongs to this very input.

        Raises:
            InputError: as :meth:`prepare`.
        """
        return Prepared(self.prepare(source), self.finish)

    def __call__(self, source: str | Path | Any) -> Result:
        """The whole way for one input."""
        begun = self.begin(source)
        return begun.finish(self.session.run(begun.inputs))
