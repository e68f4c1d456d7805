"""Speech emotion: a recording in, how likely each emotion is, and when.

The network hears a window of a fixed length. A longer recording is heard in windows that overlap,
and its answer is the mean of theirs; a shorter one is repeated until it fills a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, ParityError

from .. import sounds
from ..sessions.base import Session
from ..synthetic_voice import synthetic_voice
from .base import Result, Shape, Task
from .labels import Labels
from .params import check_params, parse_params
from .picture_task import find_tensor

if TYPE_CHECKING:
    from PIL import Image

COMPONENTS: Final = ("M", "rho", "f_inst", "tau_g")
"""The quartet: log-energy, its rate of change, instantaneous frequency, group delay."""

SHORTEST: Final = 0.25  # seconds; a syllable
SILENCE: Final = 1e-3  # largest amplitude that is no speech (-60 dB)
CLIPPED: Final = 0.05  # share of the loud samples at full scale from which a recording is clipped
_SHOWN: Final = 3  # emotions in a line


class EmotionParams(BaseModel):
    """The parameters of the task in a manifest.

    Attributes:
        input, output: names of the graph's tensors. rate: samples a second.
        step: seconds from one window to the next in a recording.
        explain: the graph that also says what each component contributes, if there is one.
        labels: file in the bundle, one a line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str = "waveform"
    output: str = "probabilities"
    rate: Annotated[int, Field(ge=4000, le=384_000)] = 16_000
    step: Annotated[float, Field(gt=0, le=60)] = 1.0
    explain: str | None = None
    labels: str | None = None


@dataclass(frozen=True)
class Window:
    """One window of a recording.

    Attributes:
        start, end: in seconds. chances: of each class, summing to 1.
        contributions: per component of the quartet, by how much it raises the chance of this
            window's answer: that chance less what it is without the component. Empty where
            the bundle cannot tell.
    """

    start: float
    end: float
    chances: tuple[float, ...]
    contributions: tuple[float, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """What of a window speaks for an answer.

    Attributes:
        contributions: as :class:`Window` has them. quartet: (4, bands, frames), standardised.
    """

    contributions: tuple[float, ...]
    quartet: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class EmotionResult(Result):
    """What was heard.

    Attributes:
        labels: of the classes. chances: their means over the windows. windows: in order.
        seconds: length of the recording. remarks: what is wrong with it, in words.
    """

    labels: tuple[str, ...]
    chances: tuple[float, ...]
    windows: tuple[Window, ...]
    seconds: float
    remarks: tuple[str, ...] = ()
    # Of each window the quartet (4, bands, frames), to draw; not part of the answer.
    quartets: tuple[np.ndarray, ...] = field(default=(), repr=False, compare=False)

    @property
    def emotion(self) -> str:
        """The most likely one."""
        return self.labels[int(np.argmax(self.chances))]

    @property
    def driver(self) -> str | None:
        """The component that raises the answer most, over all windows; None: it is not known."""
        shares = [window.contributions for window in self.windows if window.contributions]
        return COMPONENTS[int(np.argmax(np.mean(shares, axis=0)))] if shares else None

    def to_json(self) -> dict[str, Any]:
        """``{"emotion", "chances", "driver", "seconds", "windows", "remarks"}``."""
        return {
            "emotion": self.emotion,
            "chances": dict(zip(self.labels, self.chances, strict=True)),
            "driver": self.driver,
            "seconds": self.seconds,
            "windows": [
                {
                    "start": one.start,
                    "end": one.end,
                    "chances": dict(zip(self.labels, one.chances, strict=True)),
                    **(
                        {"contributions": dict(zip(COMPONENTS, one.contributions, strict=True))}
                        if one.contributions
                        else {}
                    ),
                }
                for one in self.windows
            ],
            "remarks": list(self.remarks),
        }

    def describe(self) -> str:
        """The most likely emotions, then a line for each change, then remarks."""
        best = np.argsort(-np.array(self.chances), kind="stable")[:_SHOWN]
        lines = [f"{100 * self.chances[i]:6.2f} %  {self.labels[i]}" for i in best]
        if self.driver is not None:
            lines.append(f"{self.driver} speaks most for it")
        told = [self.labels[int(np.argmax(window.chances))] for window in self.windows]
        for index, window in enumerate(self.windows):
            if len(set(told)) > 1 and (index == 0 or told[index] != told[index - 1]):
                lines.append(f"from {window.start:.1f} s: {told[index]}")
        return "\n".join((*lines, *self.remarks))

    def draw(self, source: str | Path | np.ndarray) -> Image.Image:
        """The quartet over time with the decision; see :mod:`.emotion_picture`."""
        from .emotion_picture import draw

        return draw(self)


class SpeechEmotion(Task):
    """A network from one window (1, samples) to probabilities (1, classes).

    Attributes:
        window: samples that the network hears at once.
    """

    kind: ClassVar[str] = "speech-emotion"
    suffixes: ClassVar[tuple[str, ...]] = sounds.SUFFIXES

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        self.params = parse_params(bundle, EmotionParams)
        spec = find_tensor(session.inputs, self.params.input, "input")
        self._output = find_tensor(session.outputs, self.params.output, "output").name
        if len(spec.shape) != 2 or not isinstance(spec.shape[1], int):
            raise BundleError(
                f"the task of {bundle.path} does not fit its graph",
                f"{spec.name} is {list(spec.shape)}, not one window of samples",
            )
        self.window = spec.shape[1]
        self.labels = Labels.read(bundle, self.params.labels)

    @classmethod
    def examples(
        cls, params: Mapping[str, Any], shapes: Mapping[str, Shape], end: str | None = None
    ) -> tuple[dict[str, np.ndarray], str] | None:
        """Beside random numbers, which are loud everywhere: silence, and a voice with pauses."""
        told = check_params(params, EmotionParams, "(being made)")
        shape = tuple(shapes.get(told.input, ()))
        if end is None or len(shapes) != 1 or not shape:
            return None
        if end == "min":
            return {told.input: np.zeros(shape, np.float32)}, "silence"
        voice = synthetic_voice(shape[-1], told.rate)
        return {told.input: np.broadcast_to(voice, shape).copy()}, "a made-up voice"

    def decode(self, source: str | Path | np.ndarray) -> np.ndarray:
        """The samples (N,), at the network's rate."""
        return sounds.read_sound(source, self.params.rate)

    def prepare(self, source: str | Path | np.ndarray) -> dict[str, np.ndarray]:
        """The loudest window of a recording: one window to calibrate, judge or time with.

        Raises:
            InputError: it is no sound, or too short to be speech.
        """
        samples = self._long_enough(self.decode(source))
        starts = self.starts(len(samples))
        parts = [samples[start : start + self.window] for start in starts]
        loudest = max(parts, key=lambda part: float(np.dot(part, part)))
        return {self.params.input: self.fill(loudest)[None]}

    def finish(self, outputs: Mapping[str, np.ndarray]) -> EmotionResult:
        """The answer for a single window."""
        length = self.window / self.params.rate
        chances = self.chances(outputs)
        return self._result((Window(0.0, length, chances),), length, ())

    def __call__(self, source: str | Path | np.ndarray) -> EmotionResult:
        """A whole recording.

        Raises:
            InputError: it is no sound, or too short to be speech.
            ParityError: an answer is not finite: the artifact is broken.
        """
        samples = self._long_enough(self.decode(source))
        rate = self.params.rate
        windows, quartets = [], []
        for start in self.starts(len(samples)):
            heard = self.fill(samples[start : start + self.window])
            chances = self.chances(self.session.run({self.params.input: heard[None]}))
            why = self.explain(heard, int(np.argmax(chances)))
            if why is not None:
                quartets.append(why.quartet)
            end = min(start + self.window, len(samples))
            found = () if why is None else why.contributions
            windows.append(Window(start / rate, end / rate, chances, found))
        remarks = _remarks(samples)
        return self._result(tuple(windows), len(samples) / rate, remarks, tuple(quartets))

    def explain(self, window: np.ndarray, told: int) -> Explanation | None:
        """What of one window (samples,) speaks for class ``told``; None: the bundle cannot tell.

        It is computed in fp32, whatever the answer is computed in.

        Raises:
            ParityError: it is not finite: the artifact is broken.
        """
        explaining = self._explaining()
        if explaining is None:
            return None
        shown = explaining.run({self.params.input: window[None]})
        whole = self.chances(shown)[told]
        without = shown["without"].reshape(len(COMPONENTS), -1)[:, told]
        return Explanation(tuple(float(whole - one) for one in without), shown["quartet"][0])

    def starts(self, count: int) -> Sequence[int]:
        """Where windows begin in ``count`` samples: a step apart, the last at the end."""
        last = max(count - self.window, 0)
        step = max(1, round(self.params.step * self.params.rate))
        return sorted({*range(0, last, step), last})

    def fill(self, samples: np.ndarray) -> np.ndarray:
        """A window of samples, repeated until it is full where there are fewer."""
        return np.resize(samples, self.window).astype(np.float32, copy=False)

    def chances(self, outputs: Mapping[str, np.ndarray]) -> tuple[float, ...]:
        """The probabilities of one run.

        Raises:
            ParityError: they are not finite. BundleError: they do not fit the labels.
        """
        found = outputs[self._output].astype(np.float64).ravel()
        if not np.isfinite(found).all():
            raise ParityError(
                "the probabilities are not finite",
                f"{self.session.runtime} overflows in this artifact",
                f"edgekit verify {self.bundle.path}",
            )
        self.labels.check(found.size, "probabilities")
        return tuple(float(chance) for chance in found)

    def _result(
        self,
        windows: tuple[Window, ...],
        seconds: float,
        remarks: tuple[str, ...],
        quartets: tuple[np.ndarray, ...] = (),
    ) -> EmotionResult:
        mean = np.mean([window.chances for window in windows], axis=0)
        names = tuple(self.labels[index] for index in range(len(mean)))
        chances = tuple(float(chance) for chance in mean)
        return EmotionResult(names, chances, windows, seconds, remarks, quartets)

    def _long_enough(self, samples: np.ndarray) -> np.ndarray:
        seconds = len(samples) / self.params.rate
        if seconds < SHORTEST:
            raise InputError(
                f"the sound is {seconds:.2g} s long", f"speech takes {SHORTEST} s at least"
            )
        return samples

    def _explaining(self) -> Session | None:
        """The session that also explains, on the same runtime, if the bundle has it there."""
        if self.params.explain is None:
            return None
        if "_explain" not in self.__dict__:
            self._explain = self._open_explain(self.params.explain)
        return self._explain

    def _open_explain(self, name: str) -> Session | None:
        from .. import load, registry

        target = registry.get(self.session.runtime).target
        for graph in self.bundle.manifest.graphs:
            done = any(one.target == target and one.status == "ok" for one in graph.artifacts)
            if graph.name == name and done:
                opened = load(
                    self.bundle, self.session.runtime, threads=self.session.threads, graph=name
                )
                self.session.own(opened)
                return opened
        return None


def _remarks(samples: np.ndarray) -> tuple[str, ...]:
    """What a listener would say of the recording itself."""
    loud = np.abs(samples)
    peak = float(loud.max())
    if peak < SILENCE:
        return ("there is nothing to hear: the answer is the network's guess at silence",)
    full = float((loud >= 0.999 * peak).mean() / max((loud >= 0.5 * peak).mean(), 1e-9))
    if full > CLIPPED:
        return (f"the sound is clipped: {100 * full:.0f} % of its loud samples are at the limit",)
    return ()
