"""Tasks: what stands between a file and a session, and between a session and an answer.

>>> from edgekit.runtimes import load, tasks
>>> from edgekit.bundle import Bundle
>>> with Bundle.open("model.edgekit") as bundle, load(bundle) as session:  # doctest: +SKIP
...     print(tasks.for_bundle(bundle, session)("photo.jpg").describe())
"""

from __future__ import annotations

from typing import Final

from edgekit.bundle import Bundle
from edgekit.errors import UnsupportedError

from ..sessions.base import Session
from .base import Prepared, Result, Task
from .classification import Classification
from .detection import ObjectDetection
from .features import Features
from .lidar_detection import LidarDetection
from .prompted_detection import PromptedDetection
from .segmentation import Segmentation
from .speech_codec import SpeechCodec
from .speech_dialogue import SpeechDialogue
from .speech_emotion import SpeechEmotion
from .tensors import Tensors

__all__ = ["TASKS", "Prepared", "Result", "Task", "for_bundle"]

TASKS: Final[dict[str, type[Task]]] = {
    task.kind: task
    for task in (
        Classification,
        Tensors,
        ObjectDetection,
        Segmentation,
        Features,
        PromptedDetection,
        LidarDetection,
        SpeechEmotion,
        SpeechCodec,
        SpeechDialogue,
    )
}
"""The task classes by the kind that a manifest states."""


def for_bundle(bundle: Bundle, session: Session) -> Task:
    """The task that the bundle's manifest describes, around ``session``.

    Raises:
        UnsupportedError: this version knows no such kind of task.
        BundleError: the task's parameters make no sense.
    """
    kind = bundle.manifest.task.kind
    if kind not in TASKS:
        raise UnsupportedError(
            f"the task of {bundle.path} is {kind!r}",
            f"this edgekit knows {', '.join(TASKS)}",
            "use edgekit.runtimes.load and session.run on arrays of your own",
        )
    return TASKS[kind](bundle, session)
