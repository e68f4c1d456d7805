"""What ``edgekit run`` asks of a task that is told what to look for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import InputError, UsageError

if TYPE_CHECKING:
    from edgekit.runtimes.tasks import Result, Task


@dataclass(frozen=True)
class Wishes:
    """What was given on the command line.

    Attributes:
        classes: ``--classes`` as typed. The others are the options of their names; ``memory``
            is in MiB.
    """

    classes: str | None = None
    threshold: float | None = None
    class_agnostic: bool = False
    memory: int | None = None
    masks: bool = False
    track: bool = False
    track_threshold: float | None = None

    def tell(self, task: Task) -> None:
        """Tell a task what to look for, and how.

        Raises:
            UsageError: it is none that can be told, or a class or a value is none.
            InputError: the file of classes cannot be read.
        """
        # In the order of the fields; what was not given is None or False.
        given = [
            f"--{name.replace('_', '-')}"
            for name, value in vars(self).items()
            if value is not None and value is not False
        ]
        if not given:
            return
        from edgekit.runtimes.tasks.prompted_detection import PromptedDetection, Settings

        if not isinstance(task, PromptedDetection):
            raise UsageError(
                f"{given[0]} does not apply to {task.bundle.path}",
                f"its task is {task.kind}, whose classes were fixed when it was trained",
                f"leave {given[0]} out",
            )
        task.configure(
            Settings(
                threshold=self.threshold,
                class_agnostic=self.class_agnostic or None,
                memory=None if self.memory is None else self.memory << 20,
                masks=self.masks,
            )
        )
        if self.classes is not None:
            task.choose(read_classes(self.classes))

    def sources(self, inputs: list[Path], suffixes: tuple[str, ...] | None) -> list[Path]:
        """What to run, each with one answer: files; with ``--track`` clips, which folders are.

        Raises:
            InputError: there is no such file, or a folder holds nothing to run.
            UsageError: a video without ``--track``, or ``--track-threshold`` without it or
                out of range.
        """
        start = self.track_threshold
        if start is not None and not 0 <= start <= 1:
            raise UsageError(f"--track-threshold {start} is no share", "", "give 0 to 1")
        if self.track:
            return list(dict.fromkeys(inputs))
        if start is not None:
            raise UsageError("--track-threshold is of --track", "", "give both")
        from edgekit.runtimes.clips import SUFFIXES
        from edgekit.runtimes.tasks.inputs import expand

        for path in inputs:
            if path.suffix.lower() in SUFFIXES and path.is_file():
                raise UsageError(f"{path} is a video", "one picture is looked at", "give --track")
        return expand(inputs, suffixes)

    def answer(self, task: Task, source: Path, advance: Callable[[], None]) -> Result:
        """What the task says of one source; of a clip it is computed when it is asked for.

        Args:
            advance: called when a file, or a frame of a clip, is answered.

        Raises:
            InputError: the source cannot be read.
            MissingBackendError: it is a video, and PyAV is not here.
        """
        if not self.track:
            result = task(source)
            advance()
            return result
        from edgekit.runtimes.clips import open_clip
        from edgekit.runtimes.detector import Detector
        from edgekit.runtimes.followed import Followed
        from edgekit.runtimes.tracking import TrackerSettings

        settings = TrackerSettings()
        if self.track_threshold is not None:
            settings = replace(settings, high=self.track_threshold)
        return Followed(Detector(task), open_clip(source), settings, advance)


def read_classes(text: str) -> list[str]:
    """Names separated by commas, or the lines of a ``.txt`` file.

    Raises:
        InputError: there is no such file, or it is not UTF-8.
    """
    if not text.lower().endswith(".txt"):
        return text.split(",")
    try:
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read the classes in {text}", reason) from error
    return [line for line in lines if line.strip()]
