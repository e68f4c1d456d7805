"""Errors that a user can act on.

Every error says *what* is wrong, *why*, and the *next* command or step, in one line, and
carries the exit code that scripts rely on. Anything else that reaches the command line
is a fault in edgekit and exits 1.
"""

from typing import ClassVar


class EdgekitError(Exception):
    """Base of all errors that edgekit reports in one line.

    Args:
        what: what went wrong, naming the thing.
        why: the cause, if known.
        next_step: the command or step that mends it, if there is one.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str = "", next_step: str = "") -> None:
        self.what, self.why, self.next_step = what, why, next_step
        super().__init__(what)

    def __str__(self) -> str:
        text = " ".join(self.what.split())
        if self.why:
            text += f": {' '.join(self.why.split())}"
        if self.next_step:
            text += f". Next: {' '.join(self.next_step.split())}"
        return text

    def __reduce__(self) -> tuple:
        return type(self), (self.what, self.why, self.next_step)


class UsageError(EdgekitError):
    """The command or call is malformed: an unknown model, a bad option."""

    exit_code = 2


class MissingBackendError(EdgekitError):
    """A back end, its library or its hardware is not here; says what to install."""

    exit_code = 3


class UnsupportedError(EdgekitError):
    """A target does not support an operator, a shape or a precision of the model."""

    exit_code = 4


class ParityError(EdgekitError):
    """An artifact runs but is not the same model any more."""

    exit_code = 5


class AccuracyError(EdgekitError):
    """A quantised artifact exceeds its accuracy budget."""

    exit_code = 6


class BundleError(EdgekitError):
    """A bundle is damaged, incomplete or not to be trusted."""

    exit_code = 7


class InputError(EdgekitError):
    """Input data (a picture, an array, a checkpoint) cannot be used."""

    exit_code = 8


class DeviceError(EdgekitError):
    """A device or a connection failed."""

    exit_code = 9


class MemoryBudgetError(EdgekitError):
    """What is to run does not fit the memory that it was allowed."""

    exit_code = 10
