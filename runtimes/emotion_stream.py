"""Emotion in live sound: a window that slides over it, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.errors import InputError, MissingBackendError, UsageError

from .tasks.speech_emotion import SpeechEmotion


@dataclass(frozen=True)
class Moment:
    """What was heard at one time.

    Attributes:
        time: seconds of sound so far. chances: of the window that ends here, as
            :class:`~edgekit.runtimes.tasks.speech_emotion.SpeechEmotion` gives for it alone.
        smoothed: their moving average. emotion: the most likely by that.
    """

    time: float
    chances: tuple[float, ...]
    smoothed: tuple[float, ...]
    emotion: str


class EmotionStream:
    """Takes sound as it comes and answers every ``hop`` seconds, once a window is full.

    >>> stream = EmotionStream(task)  # doctest: +SKIP
    >>> for moment in stream.feed(block):
    ...     print(moment.time, moment.emotion)

    Args:
        task: around the session that answers.
        rate: of the sound that is fed; None: the network's own. Another one is converted.
        hop: seconds between answers. smoothing: time constant of the moving average, seconds;
            0 for none.

    Raises:
        UsageError: an argument is out of range.
        MissingBackendError: the rate is another one, and soxr is not installed.
    """

    def __init__(
        self,
        task: SpeechEmotion,
        *,
        rate: int | None = None,
        hop: float = 0.25,
        smoothing: float = 0.5,
    ) -> None:
        own = task.params.rate
        self.task, self.hop = task, round(hop * own)
        if not 1 <= self.hop <= task.window:
            raise UsageError(
                f"a hop of {hop} s leaves gaps or stands still",
                f"a window is {task.window / own:g} s",
                "give --hop between the two",
            )
        if smoothing < 0:
            raise UsageError(f"smoothing over {smoothing} s", "a time is not negative")
        self._keep = math.exp(-hop / smoothing) if smoothing else 0.0
        self._convert = None if rate in (None, own) else _converter(rate, own)
        self._window = np.zeros(task.window, np.float32)
        self.reset()

    @property
    def window(self) -> np.ndarray:
        """The last window (samples,) of what was heard; it changes with the next sound."""
        return self._window

    def reset(self) -> None:
        """Forget what was heard."""
        self._window.fill(0.0)
        self._heard = 0
        self._due = self.task.window
        self._average: np.ndarray | None = None
        if self._convert is not None:
            self._convert.clear()

    def feed(self, samples: np.ndarray) -> tuple[Moment, ...]:
        """The moments that these samples (N,) complete; few or many samples at a time.

        Raises:
            InputError: they are not one channel of finite floats.
            ParityError: an answer is not finite: the artifact is broken.
        """
        if samples.ndim != 1 or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            raise InputError("the samples are no sound", "one channel of finite floats is")
        samples = samples.astype(np.float32, copy=False)
        if self._convert is not None:
            samples = self._convert.resample_chunk(samples)
        return tuple(self._take(samples))

    def _take(self, samples: np.ndarray) -> Iterator[Moment]:
        while len(samples):
            part, samples = samples[: self._due], samples[self._due :]
            count = len(part)
            self._window[:-count] = self._window[count:]
            self._window[-count:] = part
            self._heard += count
            self._due -= count
            if self._due == 0:
                self._due = self.hop
                yield self._answer()

    def _answer(self) -> Moment:
        task = self.task
        outputs = task.session.run({task.params.input: self._window[None]})
        chances = task.chances(outputs)
        now = np.array(chances)
        before = now if self._average is None else self._average
        self._average = self._keep * before + (1 - self._keep) * now
        smoothed = tuple(float(chance) for chance in self._average)
        emotion = task.labels[int(np.argmax(self._average))]
        return Moment(self._heard / task.params.rate, chances, smoothed, emotion)


def _converter(rate: int | None, own: int) -> Any:
    try:
        import soxr
    except ImportError as error:
        raise MissingBackendError(
            f"sound of {rate} samples a second is to be converted",
            "soxr is not installed",
            'pip install "edgekit-toolkit[audio]"',
        ) from error
    return soxr.ResampleStream(rate, own, 1, dtype="float32", quality="HQ")
