"""What ``edgekit run`` asks of a task that is told what to look for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import InputError, UsageError

if TYPE_CHECKING:
    from edgekit.runtimes.tasks import Task


@dataclass(frozen=True)
class Wishes:
    """What was given on the command line.

    Attributes:
        classes: ``--classes`` as typed. threshold: ``--threshold``. masks: ``--masks``.
    """

    classes: str | None = None
    threshold: float | None = None
    masks: bool = False

    def tell(self, task: Task) -> None:
        """Tell a task what to look for, and how.

        Raises:
            UsageError: it is none that can be told, or a class or a value is none.
            InputError: the file of classes cannot be read.
        """
        given = [
            option
            for option, value in (
                ("--classes", self.classes is not None),
                ("--threshold", self.threshold is not None),
                ("--masks", self.masks),
            )
            if value
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
        task.configure(Settings(threshold=self.threshold, masks=self.masks))
        if self.classes is not None:
            task.choose(read_classes(self.classes))


def read_classes(text: str) -> list[str]:
    """Names separated by commas, or the lines of a ``.txt`` file.

    Raises:
        InputError: there is no such file, or it is not UTF-8.
    """
    if not text.lower().endswith(".txt"):
        return text.split(",")
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the classes in {text}", str(error)) from error
    return [line for line in lines if line.strip()]
