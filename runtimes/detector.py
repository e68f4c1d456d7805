"""A detector that is told what to look for, and looks at a picture once for all of it.

>>> from edgekit.runtimes.detector import Detector
>>> with Detector.open("sam3.edgekit", classes=["person", "car"]) as detector:  # doctest: +SKIP
...     print(detector.detect("street.jpg").describe())
...     detector.classes = ["bicycle", "traffic light"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import UsageError

from . import AUTO, load
from .sessions.base import Session
from .tasks import for_bundle
from .tasks.base import Prepared
from .tasks.pictures import Picture
from .tasks.prompted_detection import PromptedDetection, Settings
from .tasks.prompted_result import PromptedResult


@dataclass(frozen=True, eq=False)
class Seen:
    """What the backbone made of one picture: enough to look for any classes in it."""

    outputs: Mapping[str, np.ndarray]
    begun: Prepared


class Detector:
    """A bundle of the task ``prompted-detection``, open on one runtime. Use :meth:`open`.

    Args:
        task: what does the work, with its session. owned: a bundle to close with them.

    Attributes:
        task: as given. session: of the vision graph.
    """

    def __init__(self, task: PromptedDetection, owned: Bundle | None = None) -> None:
        self.task, self.session = task, task.session
        self._owned = owned
        self._looked = 0

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle,
        classes: Sequence[str] | None = None,
        *,
        runtime: str = AUTO,
        threads: int | None = None,
        threshold: float | None = None,
        iou_threshold: float | None = None,
        class_agnostic: bool | None = None,
        memory: int | None = None,
        masks: bool = False,
        cache: str | Path | None = None,
    ) -> Detector:
        """Open a bundle, and embed the classes.

        Args:
            bundle: a path, or an open bundle, which must then stay open.
            classes: what to look for; None: what the bundle names.
            runtime, threads: as of :func:`edgekit.runtimes.load`.
            threshold: what scores less is not answered; None: as the bundle says.
            iou_threshold: what overlaps a better box of its class by more is left out.
            class_agnostic: also of another class.
            memory: bytes that classes looked for at once may take, beside the graph's weights;
                where there are more, they are looked for in chunks. None: as many at once as
                the graph takes.
            masks: outline what is found, by a graph that runs for it alone.
            cache: folder where embedded classes are kept; None: the user's; "": none.

        Raises:
            UsageError: no such bundle, runtime or option, or a class has no name.
            MissingBackendError: the runtime is not here, or a class is new and the tokenizer's
                library is not.
            BundleError: the bundle is damaged.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        session = None
        try:
            session = load(opened, runtime, threads)
            detector = cls(_task(opened, session), opened if opened is not bundle else None)
            settings = Settings(threshold, iou_threshold, class_agnostic, memory, masks, cache)
            detector.task.configure(settings)
            if classes is not None:
                detector.task.choose(classes)
        except BaseException:
            if session is not None:
                session.close()
            if opened is not bundle:
                opened.close()
            raise
        return detector

    @property
    def classes(self) -> tuple[str, ...]:
        """What is looked for. Setting it embeds what is new; the backbone has no part in it."""
        return self.task.classes

    @classes.setter
    def classes(self, names: Sequence[str]) -> None:
        self.task.choose(names)

    @property
    def runs(self) -> dict[str, int]:
        """How often each graph ran, by name."""
        return {self.task.params.graph: self._looked, **self.task.runs}

    def look(self, picture: Picture) -> Seen:
        """Run the backbone on a picture; once, whatever is looked for in it later.

        Raises:
            InputError: it is no picture.
        """
        begun = self.task.begin(picture)
        self._looked += 1
        return Seen(self.session.run(begun.inputs), begun)

    def find(self, seen: Seen) -> PromptedResult:
        """The boxes of the present classes in what was seen.

        Raises:
            ParityError: an output is not finite: an artifact is broken.
        """
        return seen.begun.finish(seen.outputs)

    def detect(self, picture: Picture) -> PromptedResult:
        """:meth:`look`, then :meth:`find`.

        Args:
            picture: a file, its content, a Pillow image, or a uint8 array (H, W, 3).
        """
        return self.find(self.look(picture))

    def close(self) -> None:
        """Close all graphs, and the bundle if it was opened here."""
        self.session.close()
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _task(bundle: Bundle, session: Session) -> PromptedDetection:
    task = for_bundle(bundle, session)
    if not isinstance(task, PromptedDetection):
        raise UsageError(
            f"{bundle.path} looks for nothing that one could name",
            f"its task is {task.kind}",
            "edgekit.runtimes.tasks.for_bundle runs it",
        )
    return task
